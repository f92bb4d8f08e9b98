//! What does one group commit of 4 KiB or 16 KiB cost on a real file?
//!
//! One writer, one write in flight, the completion awaited through the eventfd as an executor does
//! it. The files lie under the build directory, so that the disk of the checkout is measured and
//! not memory; compare rows of one run, since disks change with their age and company.

use std::hint::black_box;
use std::os::fd::RawFd;

use cored_wal::disk::direct::{DirectDisk, Directory};
use cored_wal::record::HEADER_BYTES;
use cored_wal::{Log, Options};
use criterion::{Criterion, Throughput, criterion_main};

fn commit(criterion: &mut Criterion) {
    let scratch = tempfile::TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let directory = Directory::open(scratch.path().join("wal")).expect("it opens");
    let mut group = criterion.benchmark_group("wal_commit");
    for (number, kib) in [(0, 4_usize), (1, 16)] {
        let options = Options { log: number, ..Options::default() };
        let disk = DirectDisk::open(&directory, number).expect("the machine can do it");
        let (mut log, _) = Log::open(disk, options, |_| {}).expect("a new log");
        let wake = log.wake_fd().expect("real files have one");
        // With its header the record fills its blocks exactly.
        let payload = vec![7_u8; (kib << 10) - HEADER_BYTES];
        group.throughput(Throughput::Bytes((kib << 10) as u64));
        group.bench_function(format!("{kib} KiB"), |bencher| {
            bencher.iter(|| {
                log.append(0, 1, &[black_box(&payload)]);
                log.submit().expect("the disk works");
                while log.pending() {
                    wait(wake);
                    log.complete().expect("the disk works");
                }
                // As after a checkpoint: nothing old is needed, so files are used again.
                log.recycle_below(log.position().segment).expect("the disk works");
            });
        });
        log.close().expect("the disk works");
    }
    group.finish();
}

/// Waits until the kernel says that something has ended.
fn wait(wake: RawFd) {
    let mut count = [0_u8; 8];
    // SAFETY: eight bytes for an eventfd that the log keeps open.
    let read = unsafe { libc::read(wake, count.as_mut_ptr().cast(), count.len()) };
    assert_eq!(read, 8, "an eventfd gives eight bytes");
}

// The macro makes a public function that nobody but the next line sees.
#[allow(missing_docs)]
mod group {
    criterion::criterion_group!(benches, super::commit);
}
use group::benches;
criterion_main!(benches);
