//! Protobuf to JSON: walks an encoded message beside its shape. Names as declared, zeros left out,
//! 64-bit numbers as strings, bytes in base64, enums by name: as etcd's gateway writes them, with
//! no white space. It knows no particular message.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, BufMut, BytesMut};
use cored_proto::shape::{Field, Kind, Shape};
use prost::encoding::decode_varint;

/// The bytes were no message of the shape.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a response could not be read")]
pub(super) struct Malformed;

/// A field as it stands in a message.
#[derive(Clone, Copy, Debug)]
enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// Appends an encoded message as JSON.
///
/// # Errors
/// When the bytes are no such message; what was appended until then is of no use.
pub(super) fn message(
    bytes: &[u8],
    shape: &'static Shape,
    out: &mut BytesMut,
) -> Result<(), Malformed> {
    let mut values = values(bytes, shape)?;
    out.put_u8(b'{');
    let mut rest = &mut values[..];
    let mut first = true;
    while let Some(&mut (at, last)) = rest.first_mut() {
        let same = rest.iter().take_while(|value| value.0 == at).count();
        let field = &shape.fields[at];
        let (these, others) = rest.split_at_mut(same);
        rest = others;
        let last = these.last().map_or(last, |value| value.1);
        if !field.repeated && field.oneof.is_none() && is_zero(last, field) {
            continue;
        }
        if !std::mem::take(&mut first) {
            out.put_u8(b',');
        }
        out.put_u8(b'"');
        out.put_slice(field.name.as_bytes());
        out.put_slice(b"\":");
        if field.repeated {
            list(these, field, out)?;
        } else {
            // Of a field that stands there twice the last counts.
            one(last, field, out)?;
        }
    }
    out.put_u8(b'}');
    Ok(())
}

/// The known fields of a message, in the order of the shape.
fn values<'a>(
    mut bytes: &'a [u8],
    shape: &'static Shape,
) -> Result<Vec<(usize, Wire<'a>)>, Malformed> {
    let mut values = Vec::new();
    while !bytes.is_empty() {
        let key = decode_varint(&mut bytes).map_err(|_| Malformed)?;
        let wire = match key & 7 {
            0 => Wire::Number(decode_varint(&mut bytes).map_err(|_| Malformed)?),
            2 => {
                let len = decode_varint(&mut bytes).map_err(|_| Malformed)?;
                let len = usize::try_from(len).map_err(|_| Malformed)?;
                let (inside, rest) = bytes.split_at_checked(len).ok_or(Malformed)?;
                bytes = rest;
                Wire::Bytes(inside)
            }
            fixed @ (1 | 5) => {
                let len = if fixed == 1 { 8 } else { 4 };
                if bytes.len() < len {
                    return Err(Malformed);
                }
                bytes.advance(len);
                continue;
            }
            _ => return Err(Malformed),
        };
        if let Ok(at) = shape.fields.binary_search_by_key(&(key >> 3), |f| u64::from(f.number)) {
            values.push((at, wire));
        }
    }
    // Encoders write in this order, and then this costs a look at each.
    values.sort_by_key(|value| value.0);
    Ok(values)
}

fn is_zero(value: Wire<'_>, field: &Field) -> bool {
    match value {
        Wire::Number(number) => number == 0,
        Wire::Bytes(bytes) => bytes.is_empty() && !matches!(field.kind, Kind::Message(_)),
    }
}

fn list(
    values: &[(usize, Wire<'_>)],
    field: &'static Field,
    out: &mut BytesMut,
) -> Result<(), Malformed> {
    out.put_u8(b'[');
    let mut first = true;
    let mut comma = |out: &mut BytesMut| {
        if !std::mem::take(&mut first) {
            out.put_u8(b',');
        }
    };
    let scalar = !matches!(field.kind, Kind::Message(_) | Kind::String | Kind::Bytes);
    for value in values {
        match value.1 {
            // Numbers of a list are packed.
            Wire::Bytes(mut packed) if scalar => {
                while !packed.is_empty() {
                    let number = decode_varint(&mut packed).map_err(|_| Malformed)?;
                    comma(out);
                    one(Wire::Number(number), field, out)?;
                }
            }
            value => {
                comma(out);
                one(value, field, out)?;
            }
        }
    }
    out.put_u8(b']');
    Ok(())
}

fn one(value: Wire<'_>, field: &'static Field, out: &mut BytesMut) -> Result<(), Malformed> {
    match (field.kind, value) {
        (Kind::Message(shape), Wire::Bytes(bytes)) => message(bytes, shape, out)?,
        (Kind::Bytes, Wire::Bytes(bytes)) => base64(bytes, out),
        (Kind::String, Wire::Bytes(bytes)) => string(&String::from_utf8_lossy(bytes), out),
        (Kind::Bool, Wire::Number(number)) => {
            out.put_slice(if number != 0 { b"true" } else { b"false" });
        }
        (Kind::Int64, Wire::Number(number)) => {
            display(format_args!("\"{}\"", number.cast_signed()), out);
        }
        (Kind::Uint64, Wire::Number(number)) => display(format_args!("\"{number}\""), out),
        (Kind::Uint32, Wire::Number(number)) => display(format_args!("{}", number as u32), out),
        (Kind::Enum(names), Wire::Number(number)) => {
            let number = number as i32;
            match names.values.iter().find(|value| value.1 == number) {
                Some((name, _)) => display(format_args!("\"{name}\""), out),
                None => display(format_args!("{number}"), out),
            }
        }
        _ => return Err(Malformed),
    }
    Ok(())
}

fn base64(bytes: &[u8], out: &mut BytesMut) {
    out.put_u8(b'"');
    let at = out.len();
    let len = base64::encoded_len(bytes.len(), true).expect("far below the address space");
    out.resize(at + len, 0);
    STANDARD.encode_slice(bytes, &mut out[at..]).expect("the length is the encoder's own");
    out.put_u8(b'"');
}

/// Appends a text as a JSON string.
pub(super) fn string(text: &str, out: &mut BytesMut) {
    out.put_u8(b'"');
    let mut plain = 0;
    for (at, byte) in text.bytes().enumerate() {
        let escape: &[u8] = match byte {
            b'"' => b"\\\"",
            b'\\' => b"\\\\",
            8 => b"\\b",
            12 => b"\\f",
            b'\n' => b"\\n",
            b'\r' => b"\\r",
            b'\t' => b"\\t",
            0..=0x1f => b"",
            _ => continue,
        };
        out.put_slice(&text.as_bytes()[plain..at]);
        plain = at + 1;
        if escape.is_empty() {
            display(format_args!("\\u{byte:04x}"), out);
        } else {
            out.put_slice(escape);
        }
    }
    out.put_slice(&text.as_bytes()[plain..]);
    out.put_u8(b'"');
}

pub(super) fn display(text: std::fmt::Arguments<'_>, out: &mut BytesMut) {
    std::fmt::Write::write_fmt(out, text).expect("a buffer takes everything");
}
