//! Finds where a JSON value ends, byte by byte, so that a stream of values can be cut while it
//! comes in. Texts of errors are those of Go's `encoding/json`, which etcd's gateway reads with. It
//! knows no message.

/// Objects and lists inside each other, as in Go.
const DEPTH_MAX: usize = 10_000;

/// A scanner in the middle of a value, or before one.
#[derive(Debug, Default)]
pub(super) struct Scanner {
    /// For each open container, whether it is an object.
    open: Vec<bool>,
    step: Step,
}

/// What a byte has led to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The value goes on.
    More,
    /// The value ends with this byte.
    End,
    /// The value ended before this byte, which belongs to what follows (a number's end is seen
    /// only then).
    EndBefore,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Step {
    #[default]
    Value,
    /// After `[`: a value or the end.
    FirstElement,
    /// After `{`: a key or the end.
    FirstKey,
    Key,
    AfterKey,
    AfterValue,
    String {
        key: bool,
    },
    Escape {
        key: bool,
    },
    Hex {
        key: bool,
        left: u8,
    },
    /// The rest of `true`, `false` or `null`.
    Literal {
        word: &'static str,
        at: u8,
    },
    Minus,
    Zero,
    Integer,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigits,
}

impl Scanner {
    /// Whether nothing but white space was seen since the last value.
    pub(super) fn is_between(&self) -> bool {
        self.step == Step::Value && self.open.is_empty()
    }

    /// Whether the text could end here with a whole value: only a number at the top can.
    pub(super) fn is_number(&self) -> bool {
        let number =
            matches!(self.step, Step::Zero | Step::Integer | Step::Fraction | Step::ExponentDigits);
        number && self.open.is_empty()
    }

    /// Takes one byte.
    ///
    /// # Errors
    /// What Go says about a byte that no JSON has there.
    pub(super) fn take(&mut self, byte: u8) -> Result<Found, String> {
        let space = matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
        match self.step {
            Step::String { key } => return self.string(byte, key),
            Step::Escape { key } => return self.escape(byte, key),
            Step::Hex { key, left } => {
                if !byte.is_ascii_hexdigit() {
                    return Err(unexpected(byte, "in \\u hexadecimal character escape"));
                }
                self.step = if left == 1 {
                    Step::String { key }
                } else {
                    Step::Hex { key, left: left - 1 }
                };
            }
            Step::Literal { word, at } => return self.literal(byte, word, at),
            Step::Minus
            | Step::Zero
            | Step::Integer
            | Step::Point
            | Step::Fraction
            | Step::Exponent
            | Step::ExponentSign
            | Step::ExponentDigits => return self.number(byte),
            _ if space => {}
            Step::FirstElement if byte == b']' => return Ok(self.close()),
            Step::Value | Step::FirstElement => return self.begin(byte),
            Step::FirstKey if byte == b'}' => return Ok(self.close()),
            Step::FirstKey | Step::Key if byte == b'"' => self.step = Step::String { key: true },
            Step::FirstKey | Step::Key => {
                return Err(unexpected(byte, "looking for beginning of object key string"));
            }
            Step::AfterKey if byte == b':' => self.step = Step::Value,
            Step::AfterKey => return Err(unexpected(byte, "after object key")),
            Step::AfterValue => return self.after_value(byte),
        }
        Ok(Found::More)
    }

    fn begin(&mut self, byte: u8) -> Result<Found, String> {
        self.step = match byte {
            b'{' | b'[' => {
                if self.open.len() == DEPTH_MAX {
                    return Err(unexpected(byte, "exceeded max depth"));
                }
                self.open.push(byte == b'{');
                if byte == b'{' { Step::FirstKey } else { Step::FirstElement }
            }
            b'"' => Step::String { key: false },
            b'-' => Step::Minus,
            b'0' => Step::Zero,
            b'1'..=b'9' => Step::Integer,
            b't' => Step::Literal { word: "true", at: 1 },
            b'f' => Step::Literal { word: "false", at: 1 },
            b'n' => Step::Literal { word: "null", at: 1 },
            _ => return Err(unexpected(byte, "looking for beginning of value")),
        };
        Ok(Found::More)
    }

    fn string(&mut self, byte: u8, key: bool) -> Result<Found, String> {
        match byte {
            b'"' if key => self.step = Step::AfterKey,
            b'"' => return Ok(self.end_value()),
            b'\\' => self.step = Step::Escape { key },
            0..=0x1f => return Err(unexpected(byte, "in string literal")),
            _ => {}
        }
        Ok(Found::More)
    }

    fn escape(&mut self, byte: u8, key: bool) -> Result<Found, String> {
        self.step = match byte {
            b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"' => Step::String { key },
            b'u' => Step::Hex { key, left: 4 },
            _ => return Err(unexpected(byte, "in string escape code")),
        };
        Ok(Found::More)
    }

    fn literal(&mut self, byte: u8, word: &'static str, at: u8) -> Result<Found, String> {
        let expected = word.as_bytes()[usize::from(at)];
        if byte != expected {
            let text = format!("in literal {word} (expecting '{}')", char::from(expected));
            return Err(unexpected(byte, &text));
        }
        if usize::from(at) + 1 == word.len() {
            return Ok(self.end_value());
        }
        self.step = Step::Literal { word, at: at + 1 };
        Ok(Found::More)
    }

    fn number(&mut self, byte: u8) -> Result<Found, String> {
        self.step = match (self.step, byte) {
            (Step::Minus, b'0') => Step::Zero,
            (Step::Minus, b'1'..=b'9') | (Step::Integer, b'0'..=b'9') => Step::Integer,
            (Step::Minus, _) => return Err(unexpected(byte, "in numeric literal")),
            (Step::Zero | Step::Integer, b'.') => Step::Point,
            (Step::Point | Step::Fraction, b'0'..=b'9') => Step::Fraction,
            (Step::Point, _) => {
                return Err(unexpected(byte, "after decimal point in numeric literal"));
            }
            (Step::Zero | Step::Integer | Step::Fraction, b'e' | b'E') => Step::Exponent,
            (Step::Exponent, b'+' | b'-') => Step::ExponentSign,
            (Step::Exponent | Step::ExponentSign | Step::ExponentDigits, b'0'..=b'9') => {
                Step::ExponentDigits
            }
            (Step::Exponent | Step::ExponentSign, _) => {
                return Err(unexpected(byte, "in exponent of numeric literal"));
            }
            _ => {
                // The number is over; the byte belongs to what follows.
                if self.end_value() == Found::End {
                    return Ok(Found::EndBefore);
                }
                return self.take(byte);
            }
        };
        Ok(Found::More)
    }

    fn after_value(&mut self, byte: u8) -> Result<Found, String> {
        let object = *self.open.last().expect("a value at the top ends the scan");
        match (object, byte) {
            (true, b',') => self.step = Step::Key,
            (false, b',') => self.step = Step::Value,
            (true, b'}') | (false, b']') => return Ok(self.close()),
            (true, _) => return Err(unexpected(byte, "after object key:value pair")),
            (false, _) => return Err(unexpected(byte, "after array element")),
        }
        Ok(Found::More)
    }

    fn close(&mut self) -> Found {
        self.open.pop();
        self.end_value()
    }

    fn end_value(&mut self) -> Found {
        if self.open.is_empty() {
            self.step = Step::Value;
            return Found::End;
        }
        self.step = Step::AfterValue;
        Found::More
    }
}

/// Go's words for a byte in the wrong place; the byte is quoted as a Go character.
fn unexpected(byte: u8, place: &str) -> String {
    let quoted = match byte {
        b'\'' => "\\'".into(),
        b'"' => "\"".into(),
        b'\\' => "\\\\".into(),
        7 => "\\a".into(),
        8 => "\\b".into(),
        9 => "\\t".into(),
        10 => "\\n".into(),
        11 => "\\v".into(),
        12 => "\\f".into(),
        13 => "\\r".into(),
        0..=0x1f | 0x7f => format!("\\x{byte:02x}"),
        // Go takes the byte for a code point.
        0x80..=0xa0 | 0xad => format!("\\u{byte:04x}"),
        _ => char::from(byte).to_string(),
    };
    format!("invalid character '{quoted}' {place}")
}
