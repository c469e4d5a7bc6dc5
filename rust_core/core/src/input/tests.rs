use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use xxhash_rust::xxh3::xxh3_64;

use super::detect::InputFormat;
use super::identity::inspect;
use super::*;
use crate::error::{Error, Result};

/// An open file of these bytes, and the directory it is in.
pub(crate) fn opened(bytes: &[u8]) -> (tempfile::TempDir, Arc<Opened>) {
    let folder = tempfile::tempdir().expect("a directory");
    let path = folder.path().join("file");
    std::fs::write(&path, bytes).expect("written");
    let roots = access::Roots::default();
    let source = Source::find(&path, &roots).and_then(|source| source.open(&roots)).expect("opened");
    (folder, Arc::new(source))
}

#[test]
fn a_cut_file_is_noticed_by_the_signal_handler_and_fails_the_read() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("a.txt");
    std::fs::write(&path, vec![b'a'; 1 << 20]).expect("write");
    let source = Source::find(&path, &access::Roots::default()).expect("a source");
    let opened = source.open(&access::Roots::default()).expect("an open source");
    let is_lost = || {
        let mapping = opened.mapping.read().expect("the mapping");
        mapping.as_ref().map(|mapping| mapping.range.is_lost())
    };
    let mut bytes = Vec::new();
    opened.read(0, 1 << 20, &mut bytes).expect("all of it");
    assert_eq!(is_lost(), Some(false), "mapped, nothing missing");
    File::options().write(true).open(&path).and_then(|file| file.set_len(100_000)).expect("cut");
    let failed = opened.read(1 << 19, 1 << 20, &mut bytes);
    assert!(matches!(failed, Err(Error::InputChanged { .. })), "{failed:?}");
    // Only the handler makes this note: the copy went through lost pages and came back.
    assert_eq!(is_lost(), Some(true));
    assert!(bytes.iter().all(|&byte| byte == 0));
}

type Change<'c> = &'c dyn Fn(&Path);

/// Finds a file of 4 bytes, lets `change` happen to it, and reads it.
fn read_after(name: &str, change: impl FnOnce(&Path)) -> Result<Option<String>> {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join(name);
    std::fs::write(&path, "text").expect("write");
    let old = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    File::options().write(true).open(&path).and_then(|file| file.set_modified(old)).expect("a time");
    let (roots, devices) = (access::Roots::default(), Devices::default());
    inspect(&File::open(&path).expect("open"), &path, &devices).expect("a device");
    let mut nearby = Nearby::new(&roots);
    let source = Source::suppose(Given::by_path(&path), &mut nearby, InputFormat::Auto, 10, &devices)
        .expect("a source");
    change(&path);
    let mut bytes = b"before".to_vec();
    let xxh3 = source.read_whole(&mut nearby, InputFormat::Auto, &mut bytes)?;
    let text = String::from_utf8(bytes.split_off(6)).expect("a text");
    assert_eq!(bytes, b"before");
    assert!(xxh3.is_none_or(|xxh3| xxh3 == xxh3_64(text.as_bytes())));
    Ok(xxh3.map(|_| text))
}

#[test]
fn a_small_file_is_read_as_it_was_found_or_not_at_all() {
    let rewrite = |text: &'static str| {
        move |path: &Path| {
            let time = std::fs::metadata(path).and_then(|found| found.modified()).expect("a time");
            std::fs::write(path, text).expect("write");
            File::options().write(true).open(path).and_then(|file| file.set_modified(time)).expect("a time");
        }
    };
    let text = |read: Result<Option<String>>| read.expect("read").expect("text");
    assert_eq!(text(read_after("a", |_| {})), "text");
    // Another ctime with the same size and mtime: the content decides.
    assert_eq!(text(read_after("a", rewrite("text"))), "text");
    let link = |path: &Path| std::fs::hard_link(path, path.with_extension("b")).expect("a link");
    assert_eq!(text(read_after("a", link)), "text");
    let fifo = |path: &Path| {
        std::fs::remove_file(path).expect("remove");
        rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, 0o600.into(), 0)
            .expect("a FIFO");
    };
    let other = |path: &Path| {
        std::fs::write(path.with_extension("b"), "text").expect("write");
        std::fs::rename(path.with_extension("b"), path).expect("rename");
    };
    let in_place = |path: &Path| std::fs::write(path, "text").expect("write");
    let changes: [(&str, Change<'_>); 5] = [
        ("longer", &rewrite("texts")),
        ("shorter", &rewrite("tex")),
        ("in place", &in_place),
        ("a FIFO", &fifo),
        ("another file", &other),
    ];
    for (what, change) in changes {
        let read = read_after("a", change);
        assert!(matches!(read, Err(Error::InputChanged { .. })), "{what}: {read:?}");
    }
    // With its times put back, before it was opened: what is read is the file.
    assert_eq!(text(read_after("a", rewrite("taxt"))), "taxt");
    let missing = read_after("a", |path| std::fs::remove_file(path).expect("remove"));
    assert!(matches!(missing, Err(Error::NotFound { .. })), "{missing:?}");
}

#[test]
fn only_small_files_that_are_named_as_text_are_supposed_to_be_text() {
    let dir = tempfile::tempdir().expect("a directory");
    let (roots, devices) = (access::Roots::default(), Devices::default());
    let supposed = |name: &str, devices: &Devices| {
        let path = dir.path().join(name);
        std::fs::write(&path, "{\"a\": 1}").expect("write");
        Source::suppose(Given::by_path(&path), &mut Nearby::new(&roots), InputFormat::Auto, 8, devices)
            .is_some()
    };
    assert!(!supposed("a", &devices), "its file system was not looked at");
    inspect(&File::open(dir.path().join("a")).expect("open"), dir.path(), &devices).expect("a device");
    assert!(supposed("a", &devices) && supposed("a.txt", &devices));
    assert!(!supposed("a.jsonl", &devices) && !supposed("a.txt.gz", &devices));
    std::fs::write(dir.path().join("long"), "123456789").expect("write");
    let long = &dir.path().join("long");
    let (nearby, format) = (&mut Nearby::new(&roots), InputFormat::Auto);
    assert!(Source::suppose(Given::by_path(long), nearby, format, 8, &devices).is_none());
    let folder = &dir.path().join("folder");
    std::fs::create_dir(folder).expect("mkdir");
    assert!(Source::suppose(Given::by_path(folder), nearby, format, 8, &devices).is_none());
}
