//! What each system call on the file asks of the disk, and what the disk's answers become.

use super::*;
use crate::frontends::fuse::file::Lent;

#[test]
fn bytes_go_to_the_disk_and_come_back() {
    if !can_mount() {
        return;
    }
    let bench = Bench::new();
    let disk = Recorder::new(1_000_001, |_| {});
    disk.fill(|at| u8::try_from(at % 251).unwrap());
    let attached = bench.file(&disk);
    let path = attached.path().to_owned();
    assert_eq!(path, bench.path());
    let found = fs::metadata(&path).unwrap();
    assert!(found.is_file());
    assert_eq!((found.len(), found.mode() & 0o7777), (1_000_001, 0o600));
    assert_eq!(fs::read(&path).unwrap(), disk.bytes());

    let file = open(&path, OFlags::empty()).unwrap();
    file.write_all_at(b"pydisk", 999_990).unwrap();
    assert_eq!(&disk.bytes()[999_990..999_996], b"pydisk");
    let mut end = [0; 64];
    assert_eq!(file.read_at(&mut end, 999_990).unwrap(), 11);
    assert_eq!(file.read_at(&mut end, 1_000_001).unwrap(), 0);
    drop(file);
    attached.stop().unwrap();
    assert!(!path.exists());
    assert!(bench.ended.try_recv().is_err());
}

/// Attach a disk with these limits, do something with its path, and stop.
fn with_file(disk: &Arc<Recorder>, work: impl FnOnce(&Path)) {
    let bench = Bench::new();
    let attached = bench.file(disk);
    work(attached.path());
    attached.stop().unwrap();
}

#[test]
fn each_call_reaches_the_disk_as_its_request() {
    if !can_mount() {
        return;
    }
    let disk = Recorder::new(MIB, |_| {});
    disk.fill(|_| 7);
    with_file(&disk, |path| {
        let file = open(path, OFlags::empty()).unwrap();
        let none = Flags::empty();
        let keep = FallocateFlags::KEEP_SIZE;
        file.write_all_at(&[1; 512], 512).unwrap();
        assert_eq!(disk.asked(), [(OpKind::Write, 512, 512, none)]);
        fallocate(&file, FallocateFlags::PUNCH_HOLE | keep, 4096, 8192).unwrap();
        assert_eq!(disk.asked(), [(OpKind::Zero, 4096, 8192, Flags::MAY_TRIM)]);
        fallocate(&file, FallocateFlags::ZERO_RANGE, 20480, 4096).unwrap();
        fallocate(&file, FallocateFlags::ZERO_RANGE | keep, MIB - 10, 50).unwrap();
        let zeroes = [
            (OpKind::Zero, 20480, 4096, none),
            (OpKind::Zero, MIB - 10, 10, none),
        ];
        assert_eq!(disk.asked(), zeroes);
        file.sync_all().unwrap();
        file.sync_data().unwrap();
        assert_eq!(disk.asked(), [(OpKind::Flush, 0, 0, none); 2]);
        fallocate(&file, FallocateFlags::empty(), 0, MIB).unwrap();
        fallocate(&file, keep, 0, 4096).unwrap();
        for mode in [FallocateFlags::empty(), keep, FallocateFlags::ZERO_RANGE] {
            assert_eq!(fallocate(&file, mode, MIB - 10, 50), Err(Errno::NOSPC));
        }
        let collapse = fallocate(&file, FallocateFlags::COLLAPSE_RANGE, 0, 4096);
        assert_eq!(collapse, Err(Errno::OPNOTSUPP));
        assert_eq!(disk.asked(), []);
        drop(file);
    });
    let bytes = disk.bytes();
    assert!(bytes[4096..12288].iter().all(|byte| *byte == 0));
    assert_eq!((bytes[4095], bytes[12288]), (7, 7));
}

#[test]
fn a_durable_write_is_durable_however_the_disk_does_it() {
    if !can_mount() {
        return;
    }
    let write = |flags| (OpKind::Write, 0, 4096, flags);
    let flush = (OpKind::Flush, 0, 0, Flags::empty());
    let plain = Flags::empty();
    for (fua, flushes, expected) in [
        (Fua::Native, true, vec![write(Flags::FUA)]),
        (Fua::Emulate, true, vec![write(Flags::FUA)]),
        (Fua::None, true, vec![write(plain), flush]),
        (Fua::None, false, vec![write(plain)]),
    ] {
        let disk = Recorder::new(MIB, |limits| (limits.fua, limits.flush) = (fua, flushes));
        with_file(&disk, |path| {
            let dsync = OFlags::from_bits_retain(0o10000);
            for flags in [dsync, OFlags::SYNC, dsync | OFlags::DIRECT] {
                let file = open(path, flags).unwrap();
                let data = AlignedBlock([9; 4096]);
                file.write_all_at(&data.0, 0).unwrap();
                assert_eq!(disk.asked(), expected, "{fua:?} {flags:?}");
            }
            let file = open(path, OFlags::empty()).unwrap();
            let data = [std::io::IoSlice::new(&[9; 4096])];
            let once = rustix::io::ReadWriteFlags::DSYNC;
            rustix::io::pwritev2(&file, &data, 0, once).unwrap();
            assert_eq!(disk.asked(), expected, "{fua:?} RWF_DSYNC");
            file.sync_all().unwrap();
            assert_eq!(disk.asked().len(), usize::from(flushes));
        });
    }
}

#[repr(align(4096))]
struct AlignedBlock([u8; 4096]);

#[test]
fn errors_reach_the_application_and_the_next_request_is_served() {
    if !can_mount() {
        return;
    }
    let disk = Recorder::new(MIB, |_| {});
    with_file(&disk, |path| {
        let file = open(path, OFlags::empty()).unwrap();
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let beyond = Errno::from_raw_os_error(600);
        for (fails, seen) in [
            (Mood::Fails(Errno::IO), Errno::IO),
            (Mood::Fails(Errno::NOSPC), Errno::NOSPC),
            (Mood::Fails(Errno::PERM), Errno::PERM),
            (Mood::Fails(Errno::SHUTDOWN), Errno::SHUTDOWN),
            (Mood::Fails(Errno::NOSYS), Errno::IO),
            (Mood::Fails(beyond), Errno::IO),
            (Mood::Panics, Errno::IO),
        ] {
            disk.mood(fails);
            let mut read = [5; 512];
            assert_eq!(code_of(file.read_exact_at(&mut read, 0)), seen);
            assert_eq!(read, [5; 512], "{fails:?}: bytes of a failed read");
            assert_eq!(code_of(file.write_all_at(&[1; 512], 0)), seen);
            assert_eq!(code_of(file.sync_all()), seen);
            assert_eq!(fallocate(&file, punch, 0, 4096), Err(seen));
            disk.mood(Mood::Works);
            file.read_exact_at(&mut read, 0).unwrap();
            file.write_all_at(&[0; 512], 0).unwrap();
            file.sync_all().unwrap();
            fallocate(&file, punch, 0, 4096).unwrap();
        }
        disk.mood(Mood::Panics);
        assert_eq!(seek(&file, SeekFrom::Data(0)), Err(Errno::IO));
        disk.mood(Mood::Works);
    });
}

#[test]
fn writes_end_where_the_disk_ends() {
    if !can_mount() {
        return;
    }
    let disk = Recorder::new(10_000, |_| {});
    with_file(&disk, |path| {
        let file = open(path, OFlags::empty()).unwrap();
        assert_eq!(file.write_at(&[3; 4096], 8000).unwrap(), 2000);
        assert_eq!(code_of(file.write_at(&[3; 512], 10_000)), Errno::NOSPC);
        assert_eq!(code_of(file.write_at(&[3; 512], 1 << 40)), Errno::NOSPC);
        let written = (OpKind::Write, 8000, 2000, Flags::empty());
        assert_eq!(disk.asked(), [written]);
        assert_eq!(fs::metadata(path).unwrap().len(), 10_000);
    });
}

#[test]
fn the_size_is_fixed_and_truncating_at_open_keeps_the_data() {
    if !can_mount() {
        return;
    }
    let disk = Recorder::new(MIB, |_| {});
    disk.fill(|_| 1);
    with_file(&disk, |path| {
        sh(&format!(
            "printf hello > {0}; printf x | dd of={0} bs=1 status=none",
            path.display()
        ));
        assert_eq!(&disk.bytes()[..6], b"xello\x01");
        let file = open(path, OFlags::empty()).unwrap();
        for size in [0, 1, MIB - 1, MIB + 1] {
            assert_eq!(code_of(file.set_len(size)), Errno::PERM, "{size}");
        }
        file.set_len(MIB).unwrap();
        assert_eq!(fs::metadata(path).unwrap().len(), MIB);
        sh(&format!(
            "chmod 640 {0}; touch -d @1000000000 {0}",
            path.display()
        ));
        let found = fs::metadata(path).unwrap();
        assert_eq!(
            (found.mode() & 0o7777, found.mtime()),
            (0o640, 1_000_000_000)
        );
        file.write_all_at(&[1], 0).unwrap();
        drop(file);
        soon("a write changes the time", || {
            fs::metadata(path).unwrap().mtime() > 1_000_000_000
        });
    });
    assert_eq!(disk.bytes()[6], 1);
}

#[test]
fn holes_are_found() {
    if !can_mount() {
        return;
    }
    let disk = Recorder::new(200 * MIB + 1, |_| {});
    with_file(&disk, |path| {
        let mut file = open(path, OFlags::empty()).unwrap();
        assert_eq!(seek(&file, SeekFrom::Data(0)), Err(Errno::NXIO));
        assert_eq!(seek(&file, SeekFrom::Hole(5)), Ok(5));
        let at = 190 * MIB;
        file.write_all_at(&[1; 4096], at).unwrap();
        assert_eq!(seek(&file, SeekFrom::Data(0)), Ok(at));
        assert_eq!(seek(&file, SeekFrom::Hole(at)), Ok(at + 4096));
        assert_eq!(seek(&file, SeekFrom::Data(at + 4096)), Err(Errno::NXIO));
        assert_eq!(seek(&file, SeekFrom::Data(200 * MIB + 1)), Err(Errno::NXIO));
        assert_eq!(file.seek(std::io::SeekFrom::End(0)).unwrap(), 200 * MIB + 1);
    });
    let disk = Recorder::new(MIB, |limits| limits.extents = false);
    with_file(&disk, |path| {
        let file = open(path, OFlags::empty()).unwrap();
        assert_eq!(seek(&file, SeekFrom::Data(7)), Ok(7));
        assert_eq!(seek(&file, SeekFrom::Hole(7)), Ok(MIB));
    });
}

#[test]
fn a_read_only_disk_cannot_be_opened_for_writing() {
    if !can_mount() {
        return;
    }
    let disk = Recorder::new(MIB, |limits| limits.read_only = true);
    with_file(&disk, |path| {
        assert_eq!(code_of(open(path, OFlags::empty())), Errno::ROFS);
        let mut file = File::open(path).unwrap();
        assert_eq!(file.metadata().unwrap().mode() & 0o7777, 0o400);
        assert_eq!(file.read_to_end(&mut Vec::new()).unwrap(), 1 << 20);
        file.sync_all().unwrap();
    });
    assert_eq!(disk.asked(), []);
}

/// A disk of ones that keeps the memory of every read.
#[derive(Debug)]
struct Keeper(Limits, Mutex<Vec<(usize, crate::disk::Owner)>>);

impl Keeper {
    fn new(size: u64) -> Arc<Self> {
        Arc::new(Self(Limits::read_only(size), Mutex::default()))
    }
}

impl Disk for Keeper {
    fn limits(&self) -> &Limits {
        &self.0
    }

    fn serve(&self, request: crate::disk::Request<'_>) -> crate::disk::Result {
        if let crate::disk::Op::Read(buf) = request.op {
            buf.fill(1);
            let owner = Arc::clone(request.owner.unwrap());
            self.1.lock().push((buf.as_ptr() as usize, owner));
        }
        Ok(())
    }
}

impl OpenDisk for Keeper {}

#[test]
fn memory_that_a_disk_keeps_is_not_used_for_the_next_read() {
    let disk = Keeper::new(MIB);
    let file = DiskFile::new(disk.clone());
    let mut slot = pydisk_kernel::pages::Slot::new();
    for _ in 0..20 {
        let (bytes, owner) = slot.lend(4096).unwrap();
        bytes.fill(0);
        let lent = Lent {
            disk: Ok(&*disk),
            cancel: file.cancel(),
        };
        assert_eq!(file.read(lent, 0, bytes, owner), Ok(4096));
        assert_eq!(slot.lent(), [1; 4096]);
    }
    let mut places: Vec<usize> = disk.1.lock().iter().map(|kept| kept.0).collect();
    places.sort_unstable();
    places.dedup();
    assert_eq!(places.len(), 20);
    assert!(places.iter().all(|place| place % 4096 == 0));
}

#[test]
fn the_largest_disk_is_a_file_of_its_size() {
    if !can_mount() {
        return;
    }
    let size = i64::MAX.cast_unsigned();
    let bench = Bench::new();
    let attached = start(
        &bench.path(),
        Keeper::new(size),
        &bench.options,
        bench.teller.clone(),
    )
    .unwrap();
    let file = File::open(bench.path()).unwrap();
    assert_eq!(file.metadata().unwrap().len(), size);
    let mut end = [0; 10];
    assert_eq!(file.read_at(&mut end, size - 10).unwrap(), 10);
    assert_eq!(end, [1; 10]);
    assert_eq!(seek(&file, SeekFrom::Hole(3)), Ok(size));
    drop(file);
    attached.stop().unwrap();
}

#[test]
fn memory_for_a_request_never_waits_for_the_disk_itself() {
    #[derive(Debug)]
    struct Asks(Limits, Mutex<Vec<bool>>);
    impl Disk for Asks {
        fn limits(&self) -> &Limits {
            &self.0
        }
        fn serve(&self, _: crate::disk::Request<'_>) -> crate::disk::Result {
            self.1
                .lock()
                .push(rustix::process::is_io_flusher().unwrap());
            Ok(())
        }
    }

    impl OpenDisk for Asks {}
    if !can_mount() || rustix::process::configure_io_flusher_behavior(false).is_err() {
        return;
    }
    let disk = Arc::new(Asks(Limits::read_only(MIB), Mutex::default()));
    let bench = Bench::new();
    let attached = start(
        &bench.path(),
        disk.clone(),
        &bench.options,
        bench.teller.clone(),
    )
    .unwrap();
    fs::read(bench.path()).unwrap();
    attached.stop().unwrap();
    let asked = disk.1.lock();
    assert!(!asked.is_empty() && asked.iter().all(|flusher| *flusher));
}

#[test]
fn fio_reads_from_a_mapping_what_it_wrote_there() {
    if !can_mount() || !have(&["fio"]) {
        return;
    }
    for parallel in [false, true] {
        let disk = Recorder::new(64 * MIB, |limits| limits.parallel = parallel);
        with_file(&disk, |path| {
            sh(&format!(
                "fio --name=m --filename={} --rw=randwrite --bs=4k --size=8M \
                 --ioengine=mmap --verify=crc32c --verify_fatal=1 --allow_file_create=0",
                path.display()
            ));
        });
    }
}
