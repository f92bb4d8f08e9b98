//! Files that are mapped to be read, and the end of the process when the disk can not read one of
//! their pages. There is no error that a read of memory could return: the kernel sends SIGBUS to the
//! thread that reads. What the process can still do is to say where, and to end as it does when a disk
//! fails.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Once;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicPtr, AtomicUsize};

use memmap2::{Advice, UncheckedAdvice};

use crate::mvcc::base::Image;

/// The exit code of a member whose disk failed.
const DISK_FAILED: i32 = 20;

/// Files that can be named when one can not be read; there are seldom more. Others only lack the name.
const NAMED_MAX: usize = 128;

/// Bytes whose pages go at once when a map does; that takes some 0.1 ms.
const UNMAP_BYTES: usize = 4 << 20;

/// What is mapped where. A signal handler reads it: no lock, no allocation.
static NAMED: [Named; NAMED_MAX] = [const { Named::new() }; NAMED_MAX];

static HANDLED: Once = Once::new();

/// One mapping. Whoever has set `len` from 0 to 1 fills it; it counts once the true length stands there.
struct Named {
    len: AtomicUsize,
    start: AtomicUsize,
    /// Of a [`CString`] that lives as long as the mapping.
    path: AtomicPtr<libc::c_char>,
}

/// A length that is no file's that holds a block.
const BEING_FILLED: usize = 1;

/// A file whose content is read where it is mapped.
pub(super) struct MappedFile {
    // Goes first: whatever is mapped at the same place next has another name.
    _named: Option<Entry>,
    map: memmap2::Mmap,
}

impl Drop for MappedFile {
    /// The address space of the process is locked while a map goes, and the one that holds the lock may have to
    /// wait for the processor: the pages go before, little by little.
    fn drop(&mut self) {
        for start in (0..self.map.len()).step_by(UNMAP_BYTES) {
            let len = UNMAP_BYTES.min(self.map.len() - start);
            // SAFETY: pages of a file are read again if somebody touches them, and nobody does any more.
            let advised =
                unsafe { self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, start, len) };
            if advised.is_err() {
                // Then all of them go at once.
                return;
            }
        }
    }
}

/// A place in [`NAMED`] and what it points to.
struct Entry {
    at: &'static Named,
    _path: CString,
}

impl MappedFile {
    /// Maps all of a file.
    ///
    /// # Errors
    /// Whatever the operating system says.
    ///
    /// # Safety
    /// What somebody reads of it must not change, and it must not become shorter.
    pub(super) unsafe fn open(path: &Path) -> io::Result<MappedFile> {
        HANDLED.call_once(handle);
        let file = File::open(path)?;
        // SAFETY: as the caller promises.
        let map = unsafe { memmap2::Mmap::map(&file) }?;
        // Else every key of a store that is larger than memory brings 128 KiB in and as much out.
        map.advise(Advice::Random)?;
        let path = CString::new(path.as_os_str().as_bytes())?;
        let named = Entry::new(map.as_ptr() as usize, map.len(), path);
        Ok(MappedFile { map, _named: named })
    }
}

impl Image for MappedFile {
    fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// The kernel reads it in one go, not page by page.
    fn will_read(&self, part: Range<usize>) {
        // Without it reading is slow, and as right.
        let _ = self.map.advise_range(Advice::WillNeed, part.start, part.len());
    }
}

impl Entry {
    fn new(start: usize, len: usize, path: CString) -> Option<Entry> {
        let is_free =
            |at: &&Named| at.len.compare_exchange(0, BEING_FILLED, SeqCst, SeqCst).is_ok();
        let at = NAMED.iter().find(is_free)?;
        at.start.store(start, SeqCst);
        at.path.store(path.as_ptr().cast_mut(), SeqCst);
        at.len.store(len.max(BEING_FILLED), SeqCst);
        Some(Entry { at, _path: path })
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.at.len.store(0, SeqCst);
    }
}

impl Named {
    const fn new() -> Named {
        let path = AtomicPtr::new(std::ptr::null_mut());
        Named { len: AtomicUsize::new(0), start: AtomicUsize::new(0), path }
    }

    /// How far into the file an address is.
    fn offset(&self, address: usize) -> Option<usize> {
        let (len, start) = (self.len.load(SeqCst), self.start.load(SeqCst));
        let offset = address.checked_sub(start)?;
        (len > BEING_FILLED && offset < len).then_some(offset)
    }
}

/// Takes SIGBUS, on the stack that every thread of Rust has for such signals.
fn handle() {
    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_sigbus;
    // SAFETY: all zeros is a valid `sigaction`, the handler does nothing but what a signal handler may,
    // and both pointers are good for the call. That it fails would only cost the message.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut());
    }
}

/// Says which file could not be read where, and ends the process. Of any other address nothing is known:
/// then the kernel ends it, as without a handler.
extern "C" fn on_sigbus(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel gives a `siginfo_t`, and for SIGBUS one with an address.
    let address = unsafe { (*info).si_addr() } as usize;
    let found = NAMED.iter().find_map(|named| Some((named, named.offset(address)?)));
    let Some((named, offset)) = found else {
        // SAFETY: the call takes no memory. The read that failed is done again on return, and ends it.
        unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
        return;
    };
    let path = named.path.load(SeqCst);
    // SAFETY: the path lives as long as the mapping, which the thread that was stopped here is reading.
    let path = unsafe { std::ffi::CStr::from_ptr(path) };
    let mut digits = [0; 20];
    say(b"cored: ");
    say(path.to_bytes());
    say(b": the disk can not read the page at byte ");
    say(decimal(offset, &mut digits));
    say(b" (SIGBUS); the member has to stop, what was acknowledged is safe in so far as the disk is\n");
    // SAFETY: it ends the process at once and touches nothing.
    unsafe { libc::_exit(DISK_FAILED) }
}

/// Writes to standard error, with nothing in between that a signal handler must not call.
fn say(text: &[u8]) {
    // SAFETY: the bytes are read only, and outlive the call. Nobody can be told that it failed.
    let _ = unsafe { libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len()) };
}

fn decimal(mut number: usize, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &digits[at..];
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::Command;

    use super::*;

    const FILE: &str = "CORED_TEST_MAPPED_FILE";

    #[test]
    fn child_that_reads_what_is_gone() {
        let Some(path) = std::env::var_os(FILE) else { return };
        let path = Path::new(&path);
        // SAFETY: on purpose it does become shorter; no byte of it is referenced when that happens.
        let before = unsafe { MappedFile::open(path) }.expect("mapped");
        drop(before);
        // SAFETY: as above.
        let mapped = unsafe { MappedFile::open(path) }.expect("mapped");
        let map = (!path.ends_with("unnamed")).then_some(&mapped);
        if map.is_none() {
            NAMED.iter().for_each(|named| named.len.store(0, SeqCst));
        }
        let file = fs::OpenOptions::new().write(true).open(path).expect("opened");
        file.set_len(4096).expect("cut");
        // In a thread, as cores and others read.
        let first = mapped.bytes()[4095];
        let read = std::thread::scope(|scope| {
            scope.spawn(|| std::hint::black_box(mapped.bytes()[2 * 4096 + 17])).join()
        });
        panic!("{first} {read:?}: it was there");
    }

    /// How the child ends with a file of this name, and what it says.
    fn child(name: &str) -> (std::process::ExitStatus, String, String) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join(name);
        fs::write(&path, [7; 4 * 4096]).expect("written");
        let mut command = Command::new(std::env::current_exe().expect("a program"));
        command.args([
            "--exact",
            "node::mapped::tests::child_that_reads_what_is_gone",
            "--nocapture",
        ]);
        let output = command.env(FILE, &path).output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status, said, path.display().to_string())
    }

    #[test]
    fn a_page_that_can_not_be_read_ends_the_process_with_file_and_place() {
        let (status, said, path) = child("named");
        assert_eq!(status.code(), Some(DISK_FAILED), "{said}");
        let line = format!("cored: {path}: the disk can not read the page at byte 8209 (SIGBUS); ");
        assert!(said.contains(&line), "{said}");
    }

    #[test]
    fn any_other_bus_error_ends_it_as_ever() {
        let (status, said, _) = child("unnamed");
        assert_eq!(status.signal(), Some(libc::SIGBUS), "{said}");
        assert!(!said.contains("can not read"), "{said}");
    }

    #[test]
    fn numbers_are_written_in_full() {
        let mut digits = [0; 20];
        for number in [0, 7, 10, 8209, usize::MAX] {
            assert_eq!(decimal(number, &mut digits), number.to_string().as_bytes());
        }
    }
}
