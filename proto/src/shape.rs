//! What the messages look like, as tables: for code that walks a message it has no Rust type for,
//! such as a translator to JSON.
//!
//! The tables come from the descriptors and hold what such a walk needs and no more. They know no
//! encoding.

/// A message type. Fields are in the order of declaration, which is that of their numbers too.
pub struct Shape {
    /// Full name, as `etcdserverpb.PutRequest`.
    pub name: &'static str,
    /// The fields, at most [`FIELDS_MAX`].
    pub fields: &'static [Field],
    /// Full names of the oneofs, as `etcdserverpb.Compare.target_union`.
    pub oneofs: &'static [&'static str],
}

/// Most fields that a message has, so that a set of them fits an integer.
pub const FIELDS_MAX: usize = 32;

/// A field of a message.
#[derive(Debug)]
pub struct Field {
    /// As declared: `range_end`.
    pub name: &'static str,
    /// In lower camel case: `rangeEnd`.
    pub json_name: &'static str,
    /// The number on the wire.
    pub number: u32,
    /// Whether it is a list.
    pub repeated: bool,
    /// Index into [`Shape::oneofs`] of the oneof it belongs to. Such a field is present or absent;
    /// any other scalar is absent when it is zero.
    pub oneof: Option<u32>,
    /// What it holds.
    pub kind: Kind,
}

/// The types that the API uses.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "these are protobuf's own words")]
pub enum Kind {
    Bool,
    Int64,
    Uint64,
    Uint32,
    String,
    Bytes,
    Enum(&'static Names),
    Message(&'static Shape),
}

impl Kind {
    /// The type's name in a `.proto` file; `enum` and `message` for the two composite ones.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::Bool => "bool",
            Kind::Int64 => "int64",
            Kind::Uint64 => "uint64",
            Kind::Uint32 => "uint32",
            Kind::String => "string",
            Kind::Bytes => "bytes",
            Kind::Enum(_) => "enum",
            Kind::Message(_) => "message",
        }
    }
}

/// The values of an enum.
#[derive(Debug)]
pub struct Names {
    /// Name and number, in the order of declaration.
    pub values: &'static [(&'static str, i32)],
}

/// The shape of the message with this full name. Messages of the health service have none.
#[must_use]
pub fn find(name: &str) -> Option<&'static Shape> {
    let at = tables::SHAPES.binary_search_by_key(&name, |shape| shape.name).ok()?;
    Some(tables::SHAPES[at])
}

// By name only: messages contain each other in circles.
impl std::fmt::Debug for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Shape({})", self.name)
    }
}

mod tables {
    use super::{Field, Kind, Names, Shape};

    include!(concat!(env!("OUT_DIR"), "/shapes.rs"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_of_every_method_has_a_shape() {
        for method in crate::METHODS {
            let expected = !method.service.starts_with("grpc.");
            assert_eq!(find(method.input).is_some(), expected, "{}", method.input);
            assert_eq!(find(method.output).is_some(), expected, "{}", method.output);
        }
        assert!(find("etcdserverpb.Nothing").is_none());
    }

    #[test]
    fn fields_are_few_and_in_the_order_of_their_numbers() {
        for shape in tables::SHAPES {
            assert!(shape.fields.len() <= FIELDS_MAX, "{}", shape.name);
            assert!(shape.fields.is_sorted_by_key(|field| field.number), "{}", shape.name);
        }
    }

    #[test]
    fn a_field_tells_its_names_and_its_oneof() {
        let compare = find("etcdserverpb.Compare").expect("in the API");
        let field = &compare.fields[4];
        assert_eq!(
            (field.name, field.json_name, field.number),
            ("create_revision", "createRevision", 5)
        );
        let oneof = field.oneof.expect("an operand") as usize;
        assert_eq!(compare.oneofs[oneof], "etcdserverpb.Compare.target_union");
        assert!(compare.fields[0].oneof.is_none());
    }
}
