//! What kind of file system an input lies on, as far as reading it safely goes.

use std::cell::RefCell;
use std::fs::{File, Metadata};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

/// Kinds of file systems.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// On this machine: a mapping is coherent, a change shows in size or mtime.
    Local,
    /// Over a network or served by a program: pages of a mapping may fail or be stale, so it is read.
    Remote,
    /// Made up by the kernel as it is read: sizes and times say nothing.
    Kernel,
}

/// `f_type` numbers, from statfs(2) and the kernel's `magic.h`.
const REMOTE: [u32; 14] = [
    0x6969,      // NFS
    0x517B,      // SMB
    0xFF53_4D42, // CIFS
    0xFE53_4D42, // SMB2
    0x6573_5546, // FUSE
    0x0102_1997, // 9P
    0x00C3_6400, // Ceph
    0x5346_414F, // AFS
    0x6B41_4653, // AFS in the kernel
    0x7375_7245, // Coda
    0x0BD0_0BD0, // Lustre
    0x4750_4653, // GPFS
    0x7461_636F, // OCFS2
    0x0116_1970, // GFS2
];
const KERNEL: [u32; 9] = [
    0x9FA0,      // proc
    0x6265_6572, // sysfs
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x7363_6673, // securityfs
    0x0027_E0EB, // cgroup
    0x6367_7270, // cgroup2
    0xCAFE_4A11, // bpf
    0x6265_6570, // configfs
];

/// Kinds of the devices that were met: a hundred thousand files lie on one or two.
///
/// For the length of one look at a list of files; a number may mean another file system later.
#[derive(Debug, Default)]
pub(crate) struct Devices(RefCell<Vec<(u64, Kind)>>);

impl Devices {
    /// The kind of a device that was met.
    pub(super) fn known(&self, device: u64) -> Option<Kind> {
        self.0.borrow().iter().find(|(known, _)| *known == device).map(|&(_, kind)| kind)
    }

    /// The kind of the file system that `file` lies on.
    pub(super) fn kind(&self, metadata: &Metadata, file: &File) -> Kind {
        self.known(metadata.dev()).unwrap_or_else(|| {
            let kind = kind(file);
            self.0.borrow_mut().push((metadata.dev(), kind));
            kind
        })
    }
}

/// The kind of the file system that `file` lies on.
pub(super) fn kind(file: &File) -> Kind {
    // The number's width differs between platforms; its low 32 bits are the magic number.
    match rustix::fs::fstatfs(file.as_fd()).map(|stat| stat.f_type as u32) {
        Ok(magic) if REMOTE.contains(&magic) => Kind::Remote,
        Ok(magic) if KERNEL.contains(&magic) => Kind::Kernel,
        Ok(_) => Kind::Local,
        // Nothing is known, so nothing is assumed.
        Err(_) => Kind::Remote,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_the_kernel_s_and_temporary_files_are_local() {
        assert_eq!(kind(&File::open("/proc/self/status").expect("open")), Kind::Kernel);
        assert_eq!(kind(&tempfile::tempfile().expect("a file")), Kind::Local);
    }
}
