//! Compiles `proto/*.proto` into Rust types, the descriptor bytes and the table of methods.
//! Knows nothing of what the messages mean.

use std::error::Error;
use std::fmt::Write as _;
use std::path::PathBuf;

use prost::Message as _;

#[path = "build/shapes.rs"]
mod shapes;

const FILES: [&str; 6] =
    ["rpc.proto", "mvcc.proto", "auth.proto", "lock.proto", "election.proto", "health.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=build");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);

    let descriptors = protox::compile(FILES, ["proto"])?;
    // Source comments stay out of the descriptors that are served: no client reads them.
    let mut bare = descriptors.clone();
    for file in &mut bare.file {
        file.source_code_info = None;
    }
    std::fs::write(out.join("descriptors.bin"), bare.encode_to_vec())?;
    std::fs::write(out.join("methods.rs"), methods(&bare))?;
    std::fs::write(out.join("shapes.rs"), shapes::tables(&bare))?;

    prost_build::Config::new().bytes(["."]).include_file("packages.rs").compile_fds(descriptors)?;
    Ok(())
}

/// The array expression behind `METHODS`, in the order of the files and of the services in them.
fn methods(descriptors: &prost_types::FileDescriptorSet) -> String {
    let mut table = String::from("&[\n");
    for file in &descriptors.file {
        for service in &file.service {
            for method in &service.method {
                let kind = match (method.client_streaming(), method.server_streaming()) {
                    (false, false) => "Unary",
                    (false, true) => "ServerStream",
                    (true, false) => "ClientStream",
                    (true, true) => "BidiStream",
                };
                writeln!(
                    table,
                    "Method {{ service: \"{}.{}\", name: {:?}, kind: Kind::{kind}, input: {:?}, output: {:?} }},",
                    file.package(),
                    service.name(),
                    method.name(),
                    method.input_type().trim_start_matches('.'),
                    method.output_type().trim_start_matches('.'),
                )
                .expect("writing to a String cannot fail");
            }
        }
    }
    table.push(']');
    table
}
