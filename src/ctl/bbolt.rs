//! bbolt files, which is what etcd keeps its data in: read without trust, written in bulk.
//!
//! Knows pages, trees and buckets; what etcd puts into them is told in [`super::etcd`]. There is no
//! update in place, no transaction and no free list to maintain: a backup is read from its first key
//! to its last, or written so.
//!
//! All numbers are little-endian. A file is an array of pages of one size, a power of two; etcd takes
//! the operating system's. A page that holds more than fits goes on in the `overflow` pages behind it,
//! as one run of bytes.
//!
//! ```text
//! page      offset  size  field
//!                0     8  id         place in the file, divided by the page size; 0 in an inline page
//!                8     2  kind       1 branch · 2 leaf · 4 meta · 16 free list
//!               10     2  count      elements; of a free list 0xffff says that the number stands in front
//!               12     4  overflow   pages that follow and belong to this one
//!               16     …  elements, then the keys and values that they point to
//!
//! meta           0     4  magic      0xED0CDAED                     pages 0 and 1, behind the page's
//!                4     4  version    2                              header: the one with a right checksum
//!                8     4  page_bytes                                and the higher transaction counts
//!               12     4  flags      0
//!               16     8  root       page of the tree of buckets
//!               24     8  sequence   0
//!               32     8  freelist   its page; all ones when it is not stored (etcd's choice)
//!               40     8  pages      all pages of the file are below this one
//!               48     8  transaction
//!               56     8  checksum   FNV-1a of 64 bits over the 56 bytes above
//!
//! branch         0     4  pos        where the key lies, counted from this element
//! element        4     4  key_bytes
//!                8     8  child      page that holds the keys from this one up to the next element's
//!
//! leaf           0     4  flags      1: the value is a bucket
//! element        4     4  pos        where the key lies, counted from this element; the value follows it
//!                8     4  key_bytes
//!               12     4  value_bytes
//!
//! bucket         0     8  root       its first page; 0 when the whole bucket is one leaf page, inline
//!                8     8  sequence
//!               16     …  the inline page
//! ```

mod check;
#[cfg(test)]
mod tests;
mod write;

pub use write::{Tree, Writer};

/// First number of a meta page.
const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;
const BRANCH: u16 = 1;
const LEAF: u16 = 2;
const META: u16 = 4;
const FREE_LIST: u16 = 16;
/// A leaf element whose value is a bucket.
const IS_BUCKET: u32 = 1;
/// In a meta page: the free list is not stored.
const NO_FREE_LIST: u64 = u64::MAX;
const PAGE_HEADER_BYTES: usize = 16;
const ELEMENT_BYTES: usize = 16;
const BUCKET_HEADER_BYTES: usize = 16;
const META_BYTES: usize = 64;
/// Page sizes that bbolt looks for the second meta page with.
const PAGE_BYTES_MIN: u64 = 1 << 10;
const PAGE_BYTES_MAX: u64 = 1 << 24;
/// Levels of a tree. Each branch page has two children or more, so a file of 2^64 bytes needs fewer.
const DEPTH_MAX: usize = 64;

/// Why a file can not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No page says that this is a bbolt file.
    #[error("not a bbolt file: no valid meta page")]
    Foreign,
    /// It was one, and a part of it is not what it has to be.
    #[error("damaged at byte {offset}: {why}")]
    Damaged {
        /// Where in the file.
        offset: u64,
        /// What is wrong there.
        why: &'static str,
    },
}

fn damaged<T>(offset: u64, why: &'static str) -> Result<T, Error> {
    Err(Error::Damaged { offset, why })
}

/// A bbolt file in memory, mapped or read.
#[derive(Clone, Copy, Debug)]
pub struct Database<'a> {
    bytes: &'a [u8],
    page_bytes: u64,
    root: u64,
    free_list: u64,
    pages: u64,
    transaction: u64,
}

impl<'a> Database<'a> {
    /// Whether the file begins as one of bbolt's, be it damaged or not.
    #[must_use]
    pub fn is_one(bytes: &[u8]) -> bool {
        let magic = |at: u64| {
            let at = usize::try_from(at).ok()? + PAGE_HEADER_BYTES;
            Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?) == MAGIC)
        };
        magic(0) == Some(true) || second_places().any(|at| magic(at) == Some(true))
    }

    /// Reads the meta pages: O(1), nothing else is touched.
    ///
    /// # Errors
    /// [`Error::Foreign`] without a valid meta page, [`Error::Damaged`] when that one speaks of what
    /// the file does not have.
    pub fn open(bytes: &'a [u8]) -> Result<Database<'a>, Error> {
        let first = Database::from_meta(bytes, 0);
        // The place of the second depends on a page size that only the first one tells.
        let second = match &first {
            Some(first) => Database::from_meta(bytes, first.page_bytes),
            None => second_places()
                .find_map(|at| Database::from_meta(bytes, at).filter(|meta| meta.page_bytes == at)),
        };
        let newest = first.into_iter().chain(second).max_by_key(|meta| meta.transaction);
        let database = newest.ok_or(Error::Foreign)?;
        let size = database.pages.checked_mul(database.page_bytes);
        if size.is_none_or(|size| size > bytes.len() as u64) {
            return damaged(bytes.len() as u64, "the file ends before its last page");
        }
        Ok(database)
    }

    fn from_meta(bytes: &'a [u8], at: u64) -> Option<Database<'a>> {
        let at = usize::try_from(at).ok()?;
        let page = bytes.get(at..)?.get(..PAGE_HEADER_BYTES + META_BYTES)?;
        let meta = &page[PAGE_HEADER_BYTES..];
        let (magic, version) = (u32_at(meta, 0)?, u32_at(meta, 4)?);
        if magic != MAGIC || version != VERSION || u64_at(meta, 56)? != checksum(&meta[..56]) {
            return None;
        }
        let page_bytes = u64::from(u32_at(meta, 8)?);
        if !page_bytes.is_power_of_two() || !(PAGE_BYTES_MIN..=PAGE_BYTES_MAX).contains(&page_bytes)
        {
            return None;
        }
        Some(Database {
            bytes,
            page_bytes,
            root: u64_at(meta, 16)?,
            free_list: u64_at(meta, 32)?,
            pages: u64_at(meta, 40)?,
            transaction: u64_at(meta, 48)?,
        })
    }

    /// The whole file.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Bytes of all pages; the file may be longer.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.pages * self.page_bytes
    }

    /// The bucket that holds the others.
    #[must_use]
    pub fn root(&self) -> Bucket<'a> {
        Bucket { database: *self, root: Root::Page(self.root) }
    }

    /// The bucket with this name, if there is one. O(buckets).
    ///
    /// # Errors
    /// Where the tree of buckets is damaged.
    pub fn bucket(&self, name: &[u8]) -> Result<Option<Bucket<'a>>, Error> {
        for entry in self.root().entries() {
            let entry = entry?;
            if entry.key == name {
                return entry.bucket(self).map(Some);
            }
        }
        Ok(None)
    }

    fn page(&self, id: u64) -> Result<Page<'a>, Error> {
        if id < 2 || id >= self.pages {
            return damaged(0, "a tree points to a page that the file does not have");
        }
        let at = id * self.page_bytes;
        let header = &self.bytes[at as usize..][..PAGE_HEADER_BYTES];
        let overflow = u64::from(u32_at(header, 12).unwrap_or(0));
        if u64_at(header, 0) != Some(id) {
            return damaged(at, "the page is not the one that belongs there");
        }
        if overflow >= self.pages - id {
            return damaged(at + 12, "the page goes on behind the end of the file");
        }
        let len = (overflow + 1) * self.page_bytes;
        Page::new(at, &self.bytes[at as usize..(at + len) as usize])
    }
}

/// A sorted map inside the file.
#[derive(Clone, Copy, Debug)]
pub struct Bucket<'a> {
    database: Database<'a>,
    root: Root<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Root<'a> {
    Page(u64),
    /// The page itself, and where it lies in the file.
    Inline(u64, &'a [u8]),
}

impl<'a> Bucket<'a> {
    /// All entries in order of their keys.
    #[must_use]
    pub fn entries(&self) -> Entries<'a> {
        Entries {
            database: self.database,
            begin: Some(self.root),
            path: Vec::new(),
            previous: None,
            pages: 0,
            fresh: None,
        }
    }

    /// The value of `key`. O(entries): meant for the small buckets.
    ///
    /// # Errors
    /// Where the bucket is damaged.
    pub fn get(&self, key: &[u8]) -> Result<Option<&'a [u8]>, Error> {
        for entry in self.entries() {
            let entry = entry?;
            if entry.key == key {
                return Ok(Some(entry.value));
            }
        }
        Ok(None)
    }

    /// The last entry. O(depth).
    ///
    /// # Errors
    /// Where the way to it is damaged.
    pub fn last(&self) -> Result<Option<Entry<'a>>, Error> {
        let mut page = self.root.page(&self.database)?;
        for _ in 0..DEPTH_MAX {
            let Some(last) = page.count.checked_sub(1) else { return Ok(None) };
            match page.kind {
                Kind::Leaf => return page.leaf(last).map(Some),
                Kind::Branch => page = self.database.page(page.branch(last)?.1)?,
            }
        }
        damaged(page.at, "the tree is too deep")
    }
}

impl<'a> Root<'a> {
    fn page(self, database: &Database<'a>) -> Result<Page<'a>, Error> {
        match self {
            Root::Page(id) => database.page(id),
            Root::Inline(at, bytes) => match Page::new(at, bytes)? {
                page if page.kind == Kind::Leaf => Ok(page),
                page => damaged(page.at, "an inline page is no leaf"),
            },
        }
    }
}

/// A key with its value.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Never empty.
    pub key: &'a [u8],
    /// The bytes of the bucket, if it is one.
    pub value: &'a [u8],
    /// Whether the value is a bucket.
    pub is_bucket: bool,
    /// Where the key lies in the file; the value follows.
    pub at: u64,
}

impl<'a> Entry<'a> {
    /// The bucket that the value is.
    ///
    /// # Errors
    /// When it is none, or too short for one.
    pub fn bucket(&self, database: &Database<'a>) -> Result<Bucket<'a>, Error> {
        let at = self.at + self.key.len() as u64;
        let root = match u64_at(self.value, 0) {
            _ if !self.is_bucket => return damaged(at, "a value stands where a bucket belongs"),
            Some(0) if self.value.len() >= BUCKET_HEADER_BYTES => {
                let inline = &self.value[BUCKET_HEADER_BYTES..];
                Root::Inline(at + BUCKET_HEADER_BYTES as u64, inline)
            }
            Some(root) if self.value.len() >= BUCKET_HEADER_BYTES => Root::Page(root),
            _ => return damaged(at, "a bucket is shorter than its header"),
        };
        Ok(Bucket { database: *database, root })
    }
}

/// See [`Bucket::entries`]. Checks what it passes: keys ascend, and lie where the branches say. After
/// an error it ends.
#[derive(Debug)]
pub struct Entries<'a> {
    database: Database<'a>,
    begin: Option<Root<'a>>,
    /// The pages from the root down to the one that is read, each with its next element.
    path: Vec<(Page<'a>, u16)>,
    previous: Option<&'a [u8]>,
    /// Pages visited: no more than there are, or they form a circle.
    pages: u64,
    /// The pages entered since somebody emptied it, for who wants to know.
    fresh: Option<Vec<Page<'a>>>,
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.advance().transpose()?;
        if next.is_err() {
            self.end();
        }
        Some(next)
    }
}

impl<'a> Entries<'a> {
    /// Nothing follows any more.
    pub fn end(&mut self) {
        self.begin = None;
        self.path.clear();
    }

    fn advance(&mut self) -> Result<Option<Entry<'a>>, Error> {
        if let Some(root) = self.begin.take() {
            let page = root.page(&self.database)?;
            self.descend(page)?;
        }
        while let Some((page, next)) = self.path.last_mut() {
            let (page, index) = (*page, *next);
            if index >= page.count {
                self.path.pop();
                continue;
            }
            *next += 1;
            match page.kind {
                Kind::Leaf => {
                    let entry = page.leaf(index)?;
                    self.pass(entry.key, entry.at)?;
                    return Ok(Some(entry));
                }
                Kind::Branch => {
                    let (key, child) = page.branch(index)?;
                    if self.previous.is_some_and(|previous| previous >= key) {
                        return damaged(page.at, "the keys of the page do not ascend");
                    }
                    let child = self.database.page(child)?;
                    if child.first_key()?.is_some_and(|first| first < key) {
                        return damaged(child.at, "the page begins before its branch says");
                    }
                    self.descend(child)?;
                }
            }
        }
        Ok(None)
    }

    fn descend(&mut self, page: Page<'a>) -> Result<(), Error> {
        self.pages += 1;
        if self.pages > self.database.pages || self.path.len() >= DEPTH_MAX {
            return damaged(page.at, "the pages form a circle");
        }
        if let Some(fresh) = &mut self.fresh {
            fresh.push(page);
        }
        self.path.push((page, 0));
        Ok(())
    }

    fn pass(&mut self, key: &'a [u8], at: u64) -> Result<(), Error> {
        if self.previous.is_some_and(|previous| previous >= key) {
            return damaged(at, "the keys of the page do not ascend");
        }
        self.previous = Some(key);
        Ok(())
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Branch,
    Leaf,
}

/// A page of a tree with all that overflows.
#[derive(Clone, Copy, Debug)]
struct Page<'a> {
    at: u64,
    bytes: &'a [u8],
    kind: Kind,
    count: u16,
}

impl<'a> Page<'a> {
    fn new(at: u64, bytes: &'a [u8]) -> Result<Page<'a>, Error> {
        let (Some(kind), Some(count)) = (u16_at(bytes, 8), u16_at(bytes, 10)) else {
            return damaged(at, "a page is shorter than its header");
        };
        let kind = match kind {
            BRANCH => Kind::Branch,
            LEAF => Kind::Leaf,
            _ => return damaged(at + 8, "the page is neither branch nor leaf"),
        };
        if bytes.len() < PAGE_HEADER_BYTES + usize::from(count) * ELEMENT_BYTES {
            return damaged(at + 10, "the page has more elements than fit");
        }
        if kind == Kind::Branch && count == 0 {
            return damaged(at + 10, "a branch without a child");
        }
        Ok(Page { at, bytes, kind, count })
    }

    /// The key of a branch's element and the page below it.
    fn branch(&self, index: u16) -> Result<(&'a [u8], u64), Error> {
        let at = PAGE_HEADER_BYTES + usize::from(index) * ELEMENT_BYTES;
        let element = &self.bytes[at..at + ELEMENT_BYTES];
        let number = |at| u32_at(element, at).unwrap_or(0);
        let (key, _) = self.pair(at, number(0), number(4), 0)?;
        Ok((key, u64_at(element, 8).unwrap_or(0)))
    }

    fn leaf(&self, index: u16) -> Result<Entry<'a>, Error> {
        let at = PAGE_HEADER_BYTES + usize::from(index) * ELEMENT_BYTES;
        let element = &self.bytes[at..at + ELEMENT_BYTES];
        let number = |at| u32_at(element, at).unwrap_or(0);
        let (key, value) = self.pair(at, number(4), number(8), number(12))?;
        let is_bucket = number(0) & IS_BUCKET != 0;
        let place = self.at + at as u64 + u64::from(number(4));
        Ok(Entry { key, value, is_bucket, at: place })
    }

    fn first_key(&self) -> Result<Option<&'a [u8]>, Error> {
        match self.kind {
            Kind::Leaf if self.count == 0 => Ok(None),
            Kind::Leaf => Ok(Some(self.leaf(0)?.key)),
            Kind::Branch => Ok(Some(self.branch(0)?.0)),
        }
    }

    /// A key and the value behind it, of the element at `at`.
    fn pair(
        &self,
        at: usize,
        pos: u32,
        key: u32,
        value: u32,
    ) -> Result<(&'a [u8], &'a [u8]), Error> {
        let elements = PAGE_HEADER_BYTES + usize::from(self.count) * ELEMENT_BYTES;
        let begin = at + pos as usize;
        let middle = begin + key as usize;
        let end = middle + value as usize;
        if key == 0 || begin < elements || end > self.bytes.len() {
            return damaged(self.at + at as u64, "a key or value lies outside of its page");
        }
        Ok((&self.bytes[begin..middle], &self.bytes[middle..end]))
    }
}

/// Where the second meta page can be.
fn second_places() -> impl Iterator<Item = u64> {
    (0..15).map(|step| PAGE_BYTES_MIN << step)
}

/// FNV-1a.
fn checksum(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}
