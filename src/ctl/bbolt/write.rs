//! Writes a bbolt file from front to back: each bucket's entries in order of their keys, pages filled
//! in turn, the branches above them as they become known, the meta pages last.
//!
//! In memory are one page a level of the tree and the names of the buckets, whatever the file's size.

use std::io::{self, Seek, SeekFrom, Write};

use super::{
    BRANCH, BUCKET_HEADER_BYTES, ELEMENT_BYTES, FREE_LIST, IS_BUCKET, LEAF, MAGIC, META,
    META_BYTES, PAGE_HEADER_BYTES, VERSION, checksum,
};

/// The page size of what is written here: any reader takes any size, and this is what etcd writes
/// itself on most machines.
const PAGE_BYTES: usize = 4096;
/// Where the free list lies; it is stored, and empty.
const FREE_LIST_AT: u64 = 2;

/// Makes a bbolt file.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    next: u64,
    buckets: Vec<(Vec<u8>, u64)>,
}

impl<W: Write + Seek> Writer<W> {
    /// Begins a file at the begin of `out`, which is empty.
    ///
    /// # Errors
    /// When `out` can not be written, here and below.
    pub fn new(mut out: W) -> io::Result<Writer<W>> {
        // The meta pages come last, in this place.
        out.write_all(&[0; 2 * PAGE_BYTES])?;
        let mut free_list = [0; PAGE_BYTES];
        put_header(&mut free_list, FREE_LIST_AT, FREE_LIST, 0, 0);
        out.write_all(&free_list)?;
        Ok(Writer { out, next: FREE_LIST_AT + 1, buckets: Vec::new() })
    }

    /// Begins the bucket `name`. Buckets may come in any order, each once.
    pub fn bucket(&mut self, name: &str) -> Tree<'_, W> {
        Tree { name: name.as_bytes().to_vec(), levels: Levels::default(), writer: self }
    }

    /// Writes the tree of buckets and the meta pages, and returns `out` and the file's size.
    pub fn finish(mut self) -> io::Result<(W, u64)> {
        self.buckets.sort();
        let mut levels = Levels::default();
        for (name, root) in std::mem::take(&mut self.buckets) {
            let mut header = [0; BUCKET_HEADER_BYTES];
            header[..8].copy_from_slice(&root.to_le_bytes());
            levels.put(IS_BUCKET, &name, &header, &mut self)?;
        }
        let root = levels.finish(&mut self)?;
        for id in 0..2 {
            self.out.seek(SeekFrom::Start(id * PAGE_BYTES as u64))?;
            self.out.write_all(&meta(id, root, self.next))?;
        }
        self.out.flush()?;
        Ok((self.out, self.next * PAGE_BYTES as u64))
    }

    /// Writes a node as a page with its overflow and returns its place.
    fn page(&mut self, kind: u16, node: &Node) -> io::Result<u64> {
        let id = self.next;
        let pages = node.page_bytes().div_ceil(PAGE_BYTES);
        let mut page = vec![0; pages * PAGE_BYTES];
        put_header(&mut page, id, kind, node.elements.len() as u16, pages as u32 - 1);
        let mut at = PAGE_HEADER_BYTES;
        let mut content_at = PAGE_HEADER_BYTES + node.elements.len() * ELEMENT_BYTES;
        for element in &node.elements {
            let pos = (content_at - at) as u32;
            let slot = &mut page[at..at + ELEMENT_BYTES];
            if kind == LEAF {
                slot[..4].copy_from_slice(&element.flags.to_le_bytes());
                slot[4..8].copy_from_slice(&pos.to_le_bytes());
                slot[8..12].copy_from_slice(&element.key_bytes.to_le_bytes());
                slot[12..].copy_from_slice(&element.value_bytes.to_le_bytes());
            } else {
                slot[..4].copy_from_slice(&pos.to_le_bytes());
                slot[4..8].copy_from_slice(&element.key_bytes.to_le_bytes());
                slot[8..].copy_from_slice(&element.child.to_le_bytes());
            }
            at += ELEMENT_BYTES;
            content_at += element.key_bytes as usize + element.value_bytes as usize;
        }
        page[at..at + node.content.len()].copy_from_slice(&node.content);
        self.out.write_all(&page)?;
        self.next += pages as u64;
        Ok(id)
    }
}

/// A bucket that is being written.
#[derive(Debug)]
pub struct Tree<'w, W> {
    name: Vec<u8>,
    levels: Levels,
    writer: &'w mut Writer<W>,
}

impl<W: Write + Seek> Tree<'_, W> {
    /// Adds an entry. Keys ascend and are not empty.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] when they do not, or are.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.levels.put(0, key, value, self.writer)
    }

    /// Ends the bucket.
    pub fn finish(self) -> io::Result<()> {
        let root = self.levels.finish(self.writer)?;
        self.writer.buckets.push((self.name, root));
        Ok(())
    }
}

/// The pages that are being filled: the leaf, and above it the branch of each level.
#[derive(Debug, Default)]
struct Levels {
    leaf: Node,
    branches: Vec<Node>,
    previous: Vec<u8>,
}

impl Levels {
    fn put<W: Write + Seek>(
        &mut self,
        flags: u32,
        key: &[u8],
        value: &[u8],
        writer: &mut Writer<W>,
    ) -> io::Result<()> {
        if key <= self.previous.as_slice() {
            let why = "the keys of a bucket have to ascend";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        self.previous.clear();
        self.previous.extend_from_slice(key);
        if !self.leaf.has_room(key.len() + value.len()) {
            let (first, id) = self.leaf.flush(LEAF, writer)?;
            self.add_child(0, &first, id, writer)?;
        }
        self.leaf.push(flags, 0, key, value)
    }

    fn add_child<W: Write + Seek>(
        &mut self,
        level: usize,
        first: &[u8],
        child: u64,
        writer: &mut Writer<W>,
    ) -> io::Result<()> {
        if level == self.branches.len() {
            self.branches.push(Node::default());
        }
        if !self.branches[level].has_room(first.len()) {
            let (key, id) = self.branches[level].flush(BRANCH, writer)?;
            self.add_child(level + 1, &key, id, writer)?;
        }
        self.branches[level].push(0, child, first, &[])
    }

    /// Writes what is open and returns the root.
    fn finish<W: Write + Seek>(mut self, writer: &mut Writer<W>) -> io::Result<u64> {
        let (mut first, mut root) = self.leaf.flush(LEAF, writer)?;
        let mut level = 0;
        while level < self.branches.len() {
            self.add_child(level, &first, root, writer)?;
            (first, root) = self.branches[level].flush(BRANCH, writer)?;
            level += 1;
        }
        Ok(root)
    }
}

/// A page before it is written: what its elements say, and keys and values one behind the other.
#[derive(Debug, Default)]
struct Node {
    elements: Vec<Element>,
    content: Vec<u8>,
}

#[derive(Debug)]
struct Element {
    flags: u32,
    key_bytes: u32,
    value_bytes: u32,
    child: u64,
}

impl Node {
    fn page_bytes(&self) -> usize {
        PAGE_HEADER_BYTES + self.elements.len() * ELEMENT_BYTES + self.content.len()
    }

    /// Whether an entry fits, or is the first: then it may overflow.
    fn has_room(&self, bytes: usize) -> bool {
        self.elements.is_empty() || self.page_bytes() + ELEMENT_BYTES + bytes <= PAGE_BYTES
    }

    fn push(&mut self, flags: u32, child: u64, key: &[u8], value: &[u8]) -> io::Result<()> {
        let len = |bytes: &[u8]| {
            // Positions are counted in 32 bits too.
            let len = u32::try_from(bytes.len()).ok().filter(|len| *len < 1 << 30);
            len.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "an entry of a gigabyte"))
        };
        let (key_bytes, value_bytes) = (len(key)?, len(value)?);
        self.elements.push(Element { flags, key_bytes, value_bytes, child });
        self.content.extend_from_slice(key);
        self.content.extend_from_slice(value);
        Ok(())
    }

    /// Writes the page, empties the node, and returns the page's first key and place.
    fn flush<W: Write + Seek>(
        &mut self,
        kind: u16,
        writer: &mut Writer<W>,
    ) -> io::Result<(Vec<u8>, u64)> {
        let id = writer.page(kind, self)?;
        let first = self.elements.first().map_or(0, |element| element.key_bytes as usize);
        let first = self.content[..first].to_vec();
        self.elements.clear();
        self.content.clear();
        Ok((first, id))
    }
}

fn put_header(page: &mut [u8], id: u64, kind: u16, count: u16, overflow: u32) {
    page[..8].copy_from_slice(&id.to_le_bytes());
    page[8..10].copy_from_slice(&kind.to_le_bytes());
    page[10..12].copy_from_slice(&count.to_le_bytes());
    page[12..16].copy_from_slice(&overflow.to_le_bytes());
}

/// A meta page. Its place says its transaction, as bbolt has it; both tell the same.
fn meta(id: u64, root: u64, pages: u64) -> [u8; PAGE_BYTES] {
    let mut page = [0; PAGE_BYTES];
    put_header(&mut page, id, META, 0, 0);
    let meta = &mut page[PAGE_HEADER_BYTES..][..META_BYTES];
    meta[..4].copy_from_slice(&MAGIC.to_le_bytes());
    meta[4..8].copy_from_slice(&VERSION.to_le_bytes());
    meta[8..12].copy_from_slice(&(PAGE_BYTES as u32).to_le_bytes());
    for (at, number) in [(16, root), (32, FREE_LIST_AT), (40, pages), (48, id)] {
        meta[at..at + 8].copy_from_slice(&number.to_le_bytes());
    }
    let sum = checksum(&meta[..56]);
    meta[56..].copy_from_slice(&sum.to_le_bytes());
    page
}
