//! The check of a whole bbolt file: every page of every bucket, as bbolt's own `check` does it.
//!
//! Knows nothing of what the entries mean.

use super::{Database, Error, FREE_LIST, NO_FREE_LIST, PAGE_HEADER_BYTES, Page, damaged};
use super::{Root, u16_at, u32_at, u64_at};

impl Database<'_> {
    /// Reads the whole file: every key in its order, every page used once, and where the free list is
    /// stored, every other page in it. One bit of memory a page.
    ///
    /// # Errors
    /// The first damage that it meets.
    pub fn check(&self) -> Result<(), Error> {
        let mut used = Pages::new(self.pages);
        used.take(0, 1)?;
        used.take(1, 1)?;
        let mut buckets = vec![self.root()];
        while let Some(bucket) = buckets.pop() {
            // An inline page is part of another one.
            let inline = matches!(bucket.root, Root::Inline(..));
            let mut entries = bucket.entries();
            entries.fresh = (!inline).then(Vec::new);
            loop {
                let entry = entries.next().transpose()?;
                for page in entries.fresh.iter_mut().flat_map(|fresh| fresh.drain(..)) {
                    self.take_page(&page, &mut used)?;
                }
                match entry {
                    Some(entry) if entry.is_bucket => buckets.push(entry.bucket(self)?),
                    Some(_) => {}
                    None => break,
                }
            }
        }
        self.check_free_list(&mut used)
    }

    fn take_page(&self, page: &Page<'_>, used: &mut Pages) -> Result<(), Error> {
        used.take(page.at / self.page_bytes, page.bytes.len() as u64 / self.page_bytes)
            .or(damaged(page.at, "two places of the trees share a page"))
    }

    fn check_free_list(&self, used: &mut Pages) -> Result<(), Error> {
        if self.free_list == NO_FREE_LIST {
            return Ok(());
        }
        if self.free_list < 2 || self.free_list >= self.pages {
            return damaged(0, "the free list lies behind the end of the file");
        }
        let at = self.free_list * self.page_bytes;
        let header = &self.bytes[at as usize..][..PAGE_HEADER_BYTES];
        let overflow = u64::from(u32_at(header, 12).unwrap_or(0));
        if u64_at(header, 0) != Some(self.free_list) || u16_at(header, 8) != Some(FREE_LIST) {
            return damaged(at, "the free list is none");
        }
        if overflow >= self.pages - self.free_list {
            return damaged(at + 12, "the page goes on behind the end of the file");
        }
        let len = (overflow + 1) * self.page_bytes;
        let ids = &self.bytes[at as usize + PAGE_HEADER_BYTES..(at + len) as usize];
        let (count, ids) = match u16_at(header, 10) {
            Some(0xffff) => (u64_at(ids, 0).unwrap_or(0), &ids[8..]),
            count => (u64::from(count.unwrap_or(0)), ids),
        };
        if count > ids.len() as u64 / 8 {
            return damaged(at + 10, "the free list has more pages than fit");
        }
        used.take(self.free_list, overflow + 1).or(damaged(at, "a tree uses the free list"))?;
        for index in 0..count as usize {
            let id = u64_at(ids, index * 8).unwrap_or(0);
            used.take(id, 1).or(damaged(at, "a page is in use and free, or free twice"))?;
        }
        match used.first_missing() {
            Some(id) => damaged(id * self.page_bytes, "the page is neither in use nor free"),
            None => Ok(()),
        }
    }
}

/// One bit a page.
struct Pages {
    bits: Vec<u64>,
    count: u64,
}

impl Pages {
    /// `count` is bounded by the size of the file.
    fn new(count: u64) -> Pages {
        Pages { bits: vec![0; count.div_ceil(64) as usize], count }
    }

    fn has(&self, page: u64) -> bool {
        page < self.count && self.bits[(page / 64) as usize] & 1 << (page % 64) != 0
    }

    /// Takes `len` pages, each for the first time.
    fn take(&mut self, first: u64, len: u64) -> Result<(), Error> {
        for page in first..first.saturating_add(len) {
            if page >= self.count || self.has(page) {
                return damaged(0, "a page is used twice");
            }
            self.bits[(page / 64) as usize] |= 1 << (page % 64);
        }
        Ok(())
    }

    fn first_missing(&self) -> Option<u64> {
        (0..self.count).find(|page| !self.has(*page))
    }
}
