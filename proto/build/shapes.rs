//! Turns descriptors into the static tables behind `cored_proto::shape`.
//! Leaves out the health service: it has a map field, and nobody needs its shape.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet};

/// All types of the set by full name, with a leading dot as fields refer to them.
#[derive(Default)]
struct Types<'a> {
    messages: BTreeMap<String, &'a DescriptorProto>,
    enums: BTreeMap<String, &'a EnumDescriptorProto>,
}

/// Rust items: a static for each enum and each message, and `SHAPES`, sorted by name.
pub fn tables(descriptors: &FileDescriptorSet) -> String {
    let mut types = Types::default();
    for file in &descriptors.file {
        if file.package().starts_with("grpc.") {
            continue;
        }
        let scope = format!(".{}", file.package());
        for message in &file.message_type {
            types.collect(&scope, message);
        }
        for entry in &file.enum_type {
            types.enums.insert(format!("{scope}.{}", entry.name()), entry);
        }
    }

    let mut code = String::new();
    for (name, entry) in &types.enums {
        types.enum_table(&mut code, name, entry).expect(INFALLIBLE);
    }
    for (name, message) in &types.messages {
        types.message_table(&mut code, name, message).expect(INFALLIBLE);
    }
    code.push_str("pub(super) static SHAPES: &[&Shape] = &[\n");
    for name in types.messages.keys() {
        writeln!(code, "&{},", ident(name)).expect(INFALLIBLE);
    }
    code.push_str("];\n");
    code
}

const INFALLIBLE: &str = "writing to a String cannot fail";

impl<'a> Types<'a> {
    fn collect(&mut self, scope: &str, message: &'a DescriptorProto) {
        let name = format!("{scope}.{}", message.name());
        for entry in &message.enum_type {
            self.enums.insert(format!("{name}.{}", entry.name()), entry);
        }
        for nested in &message.nested_type {
            self.collect(&name, nested);
        }
        self.messages.insert(name, message);
    }

    fn enum_table(
        &self,
        code: &mut String,
        name: &str,
        entry: &EnumDescriptorProto,
    ) -> std::fmt::Result {
        write!(code, "static {}: Names = Names {{ values: &[", ident(name))?;
        for value in &entry.value {
            write!(code, "({:?}, {}),", value.name(), value.number())?;
        }
        writeln!(code, "] }};")
    }

    fn message_table(
        &self,
        code: &mut String,
        name: &str,
        message: &DescriptorProto,
    ) -> std::fmt::Result {
        writeln!(
            code,
            "static {}: Shape = Shape {{ name: {:?}, oneofs: &[",
            ident(name),
            &name[1..]
        )?;
        for oneof in &message.oneof_decl {
            write!(code, "\"{}.{}\",", &name[1..], oneof.name())?;
        }
        writeln!(code, "], fields: &[")?;
        for field in &message.field {
            writeln!(
                code,
                "Field {{ name: {:?}, json_name: {:?}, number: {}, repeated: {}, oneof: {:?}, kind: {} }},",
                field.name(),
                field.json_name(),
                field.number(),
                field.label() == Label::Repeated,
                field.oneof_index,
                kind(field),
            )?;
        }
        writeln!(code, "] }};")
    }
}

fn kind(field: &FieldDescriptorProto) -> String {
    match field.r#type() {
        Type::Bool => "Kind::Bool".into(),
        Type::Int64 => "Kind::Int64".into(),
        Type::Uint64 => "Kind::Uint64".into(),
        Type::Uint32 => "Kind::Uint32".into(),
        Type::String => "Kind::String".into(),
        Type::Bytes => "Kind::Bytes".into(),
        Type::Enum => format!("Kind::Enum(&{})", ident(field.type_name())),
        Type::Message => format!("Kind::Message(&{})", ident(field.type_name())),
        other => panic!("{}: the API has no field of type {other:?} so far", field.name()),
    }
}

/// `.etcdserverpb.PutRequest` as the name of a static.
fn ident(name: &str) -> String {
    name[1..].replace('.', "__").to_uppercase()
}
