//! `snapshot status`: what a backup holds, after it was read from its first byte to its last.

use std::path::Path;

use super::failure::Failure;
use super::file::{BackupFile, Kind};
use super::{etcd, own};
use crate::keys::Revision;

/// What stands for the format of our own backups.
const OWN_VERSION: &str = "cored-1";

/// What a backup holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Of a backup of etcd what `etcdutl` makes of it: all its entries, those of a member too. Of one of
    /// ours HashKV at its revision.
    pub hash: u32,
    /// The newest revision.
    pub revision: Revision,
    /// Keys that have a value.
    pub keys: u64,
    /// Bytes of the file, without the checksum at its end.
    pub bytes: u64,
    /// The format; empty when the file does not say.
    pub version: String,
}

/// Ways to show a status; etcd's, byte for byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// Fields in a line.
    Simple,
    /// A table with borders.
    Table,
    /// An object.
    Json,
    /// A field in each line.
    Fields,
}

/// Reads the backup at `path`.
///
/// # Errors
/// When it can not be read, is damaged, or is none. A checksum that is missing is no error.
pub fn status(path: &Path) -> Result<Status, Failure> {
    let file = BackupFile::open(path)?;
    file.check_checksum()?;
    match file.kind() {
        Kind::Etcd => of_etcd(&file).map_err(Failure::etcd(path)),
        Kind::Own => {
            let snapshot = own::Snapshot::open(&file)?;
            let hash = snapshot.check().and_then(|()| snapshot.hash_kv());
            Ok(Status {
                hash: hash.map_err(|error| own::damaged(&file, &error))?,
                revision: snapshot.backup.revision,
                keys: snapshot.base().live(),
                bytes: snapshot.bytes(),
                version: OWN_VERSION.into(),
            })
        }
    }
}

fn of_etcd(file: &BackupFile) -> Result<Status, etcd::Error> {
    let snapshot = etcd::Snapshot::open(file.bytes())?;
    snapshot.check()?;
    let (hash, keys) = snapshot.digest()?;
    Ok(Status {
        hash,
        revision: snapshot.newest()?,
        keys,
        bytes: snapshot.database().size_bytes(),
        version: snapshot.version.unwrap_or_default(),
    })
}

impl Status {
    /// The lines to print.
    #[must_use]
    pub fn show(&self, format: Format) -> String {
        let Status { hash, revision, keys, bytes, version } = self;
        match format {
            Format::Simple => self.row().join(", ") + "\n",
            Format::Table => table(&self.row()),
            Format::Json => {
                let version = serde_json::Value::from(version.as_str());
                format!(
                    "{{\"hash\":{hash},\"revision\":{revision},\"totalKey\":{keys},\
                     \"totalSize\":{bytes},\"version\":{version}}}\n"
                )
            }
            Format::Fields => format!(
                "\"Hash\" : {hash}\n\"Revision\" : {revision}\n\"Keys\" : {keys}\n\
                 \"Size\" : {bytes}\n\"Version\" : {version}\n"
            ),
        }
    }

    fn row(&self) -> [String; 5] {
        let Status { hash, revision, keys, bytes, version } = self;
        let numbers = [format!("{hash:x}"), revision.to_string(), keys.to_string()];
        let [hash, revision, keys] = numbers;
        [hash, revision, keys, human(*bytes), version.clone()]
    }
}

fn table(row: &[String; 5]) -> String {
    const NAMES: [&str; 5] = ["HASH", "REVISION", "TOTAL KEYS", "TOTAL SIZE", "VERSION"];
    let count = |text: &str| text.chars().count();
    let widths: Vec<usize> =
        NAMES.iter().zip(row).map(|(name, field)| count(name).max(count(field))).collect();
    let line = |left: &str, middle: &str, right: &str| {
        let cells: Vec<String> = widths.iter().map(|width| "─".repeat(width + 2)).collect();
        format!("{left}{}{right}\n", cells.join(middle))
    };
    let names: Vec<String> =
        NAMES.iter().zip(&widths).map(|(name, width)| format!(" {name:^width$} ")).collect();
    let fields: Vec<String> =
        row.iter().zip(&widths).map(|(field, width)| format!(" {field:>width$} ")).collect();
    [
        line("┌", "┬", "┐"),
        format!("│{}│\n", names.join("│")),
        line("├", "┼", "┤"),
        format!("│{}│\n", fields.join("│")),
        line("└", "┴", "┘"),
    ]
    .concat()
}

/// Bytes in thousands, with one digit behind the point below ten.
fn human(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 10 {
        return format!("{bytes} B");
    }
    let unit = (bytes.ilog10() / 3) as usize;
    let value = (bytes as f64 / 1000_f64.powi(unit as i32) * 10.0 + 0.5).floor() / 10.0;
    let digits = usize::from(value < 10.0);
    format!("{value:.digits$} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_as_etcd_does() {
        let status = Status {
            hash: 0x6974_e2ab,
            revision: Revision(21),
            keys: 13,
            bytes: 40_960,
            version: "3.7.0".into(),
        };
        assert_eq!(status.show(Format::Simple), "6974e2ab, 21, 13, 41 kB, 3.7.0\n");
        assert_eq!(
            status.show(Format::Json),
            "{\"hash\":1769267883,\"revision\":21,\"totalKey\":13,\"totalSize\":40960,\
             \"version\":\"3.7.0\"}\n"
        );
        assert_eq!(
            status.show(Format::Table),
            "┌──────────┬──────────┬────────────┬────────────┬─────────┐\n\
             │   HASH   │ REVISION │ TOTAL KEYS │ TOTAL SIZE │ VERSION │\n\
             ├──────────┼──────────┼────────────┼────────────┼─────────┤\n\
             │ 6974e2ab │       21 │         13 │      41 kB │   3.7.0 │\n\
             └──────────┴──────────┴────────────┴────────────┴─────────┘\n"
        );
        let shown = [(0, "0 B"), (9, "9 B"), (999, "999 B"), (1000, "1.0 kB"), (1949, "1.9 kB")];
        let large = [(9_949_999, "9.9 MB"), (2_147_483_648, "2.1 GB"), (u64::MAX, "18 EB")];
        for (bytes, text) in shown.into_iter().chain(large) {
            assert_eq!(human(bytes), text);
        }
    }

    #[test]
    fn tells_what_etcdutl_tells() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ctl/fixtures/etcd-3.7.snap");
        let status = status(&path).expect("a sound file");
        assert_eq!(status.show(Format::Simple), "6974e2ab, 21, 13, 41 kB, 3.7.0\n");
    }
}
