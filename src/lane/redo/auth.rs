//! Users and roles as they are passed on from backup to backup: records that nobody here looks into.

use bytes::Bytes;

use super::{Malformed, Reader, number, string};

/// Names with their records, by name.
pub type Named = Vec<(Bytes, Bytes)>;

/// Who may do what, in etcd's own records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Auth {
    /// Whether a client has to say who it is.
    pub enabled: bool,
    /// How often users or roles changed; a store where they never did has 0 or 1.
    pub revision: u64,
    /// Each user's name and `authpb.User`.
    pub users: Named,
    /// Each role's name and `authpb.Role`.
    pub roles: Named,
}

impl Auth {
    /// Whether there is nothing to pass on.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.enabled && self.revision <= 1 && self.users.is_empty() && self.roles.is_empty()
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        number(out, u64::from(self.enabled));
        number(out, self.revision);
        for records in [&self.users, &self.roles] {
            number(out, records.len() as u64);
            for (name, record) in records {
                string(out, name);
                string(out, record);
            }
        }
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Auth, Malformed> {
        let enabled = reader.flag()?;
        let revision = reader.number()?;
        let mut named = || {
            reader.many(|reader| {
                let name = Bytes::copy_from_slice(reader.string()?);
                Ok((name, Bytes::copy_from_slice(reader.string()?)))
            })
        };
        Ok(Auth { enabled, revision, users: named()?, roles: named()? })
    }
}
