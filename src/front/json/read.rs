//! JSON to protobuf: walks a value beside the shape of its message and writes the encoded message.
//! What is accepted, and what is said about the rest, is as in Go's `protojson` with unknown fields
//! ignored. It knows no particular message.

use base64::Engine;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use cored_proto::shape::{Field, Kind, Shape};

use super::token::{self, Token, Tokens};

/// Messages inside each other; one more than prost decodes would be refused there.
const DEPTH_MAX: usize = 100;

const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_allow_trailing_bits(true)
    .with_decode_padding_mode(DecodePaddingMode::RequireCanonical);
const UNPADDED: GeneralPurposeConfig =
    LENIENT.with_decode_padding_mode(DecodePaddingMode::RequireNone);

/// The engines for plain and for URL-safe letters, each with and without padding.
static BASE64: [[GeneralPurpose; 2]; 2] = [
    [
        GeneralPurpose::new(&base64::alphabet::STANDARD, LENIENT),
        GeneralPurpose::new(&base64::alphabet::STANDARD, UNPADDED),
    ],
    [
        GeneralPurpose::new(&base64::alphabet::URL_SAFE, LENIENT),
        GeneralPurpose::new(&base64::alphabet::URL_SAFE, UNPADDED),
    ],
];

/// Encodes the message of this shape that a JSON value describes. The value has passed the scanner.
///
/// # Errors
/// What the client is told.
pub(super) fn message(value: &[u8], shape: &'static Shape) -> Result<Vec<u8>, String> {
    let mut tokens = Tokens::new(value)?;
    let mut out = Vec::with_capacity(value.len());
    fields(&mut tokens, shape, 1, &mut out)?;
    Ok(out)
}

fn fields(
    tokens: &mut Tokens<'_>,
    shape: &'static Shape,
    depth: usize,
    out: &mut Vec<u8>,
) -> Result<(), String> {
    if depth > DEPTH_MAX {
        return Err("proto: exceeded max recursion depth".into());
    }
    let open = tokens.next();
    if open.kind != token::Kind::Open {
        return Err(tokens.unexpected(open));
    }
    let (mut seen, mut seen_oneofs) = (0_u32, 0_u32);
    loop {
        let name = tokens.next();
        if name.kind == token::Kind::Close {
            return Ok(());
        }
        let text = name.string()?;
        let found = shape.fields.iter().position(|field| field.json_name == text);
        let found = found.or_else(|| shape.fields.iter().position(|field| field.name == text));
        let Some(at) = found else {
            tokens.skip();
            continue;
        };
        let field = &shape.fields[at];
        if seen & (1 << at) != 0 {
            return Err(tokens.error(name.at, &format!("duplicate field {}", name.raw)));
        }
        seen |= 1 << at;
        if tokens.peek().kind == token::Kind::Null {
            tokens.next();
            continue;
        }
        if field.repeated {
            list(tokens, field, depth, out)?;
            continue;
        }
        if let Some(oneof) = field.oneof {
            if seen_oneofs & (1 << oneof) != 0 {
                let of = shape.oneofs[oneof as usize];
                let text = format!("error parsing {}, oneof {of} is already set", name.raw);
                return Err(tokens.error(name.at, &text));
            }
            seen_oneofs |= 1 << oneof;
        }
        one(tokens, field, depth, out)?;
    }
}

fn list(
    tokens: &mut Tokens<'_>,
    field: &'static Field,
    depth: usize,
    out: &mut Vec<u8>,
) -> Result<(), String> {
    let open = tokens.next();
    if open.kind != token::Kind::OpenList {
        return Err(tokens.unexpected(open));
    }
    while tokens.peek().kind != token::Kind::CloseList {
        one(tokens, field, depth, out)?;
    }
    tokens.next();
    Ok(())
}

fn one(
    tokens: &mut Tokens<'_>,
    field: &'static Field,
    depth: usize,
    out: &mut Vec<u8>,
) -> Result<(), String> {
    if let Kind::Message(shape) = field.kind {
        let mut inner = Vec::new();
        fields(tokens, shape, depth + 1, &mut inner)?;
        put_bytes(field.number, &inner, out);
        return Ok(());
    }
    let token = tokens.next();
    match scalar(token, field, out) {
        Some(result) => result,
        None => {
            let (kind, name, raw) = (field.kind.name(), field.json_name, token.raw);
            let text = format!("invalid value for {kind} field {name}: {raw}");
            Err(tokens.error(token.at, &text))
        }
    }
}

/// Writes a scalar; `None` when the token is none of its type.
fn scalar(token: Token<'_>, field: &Field, out: &mut Vec<u8>) -> Option<Result<(), String>> {
    // A zero is as good as absent, except where presence counts.
    let keep_zero = field.repeated || field.oneof.is_some();
    let number = match field.kind {
        Kind::Bool => match token.kind {
            token::Kind::Bool(value) => u64::from(value),
            _ => return None,
        },
        Kind::Int64 => token.int64()?.cast_unsigned(),
        Kind::Uint64 => token.uint64()?,
        Kind::Uint32 => u64::from(token.uint32()?),
        Kind::Enum(names) => match token.kind {
            token::Kind::String => {
                let text = match token.string() {
                    Ok(text) => text,
                    Err(error) => return Some(Err(error)),
                };
                match names.values.iter().find(|value| value.0 == text) {
                    Some(value) => i64::from(value.1).cast_unsigned(),
                    // An unknown name is ignored like an unknown field.
                    None => return Some(Ok(())),
                }
            }
            _ => i64::from(token.int32()?).cast_unsigned(),
        },
        Kind::String | Kind::Bytes => {
            if token.kind != token::Kind::String {
                return None;
            }
            let text = match token.string() {
                Ok(text) => text,
                Err(error) => return Some(Err(error)),
            };
            let bytes = match field.kind {
                Kind::String => text.into_owned().into_bytes(),
                _ => decoded(&text)?,
            };
            if keep_zero || !bytes.is_empty() {
                put_bytes(field.number, &bytes, out);
            }
            return Some(Ok(()));
        }
        Kind::Message(_) => return None,
    };
    if keep_zero || number != 0 {
        put_varint(u64::from(field.number) << 3, out);
        put_varint(number, out);
    }
    Some(Ok(()))
}

fn decoded(text: &str) -> Option<Vec<u8>> {
    let url_safe = usize::from(text.contains(['-', '_']));
    let unpadded = usize::from(!text.len().is_multiple_of(4));
    BASE64[url_safe][unpadded].decode(text).ok()
}

fn put_bytes(number: u32, bytes: &[u8], out: &mut Vec<u8>) {
    put_varint(u64::from(number) << 3 | 2, out);
    put_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
