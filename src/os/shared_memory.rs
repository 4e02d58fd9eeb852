//! Memory that two processes share: a memfd whose size is sealed, mapped as words that both change atomically.
#![allow(unsafe_code, reason = "mmap and the use of a mapping have no safe wrapper")]

use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fstat, ftruncate, memfd_create};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};

/// A mapping of shared memory. All access is by whole words and atomic, so that a write of the other process at any time is a value
/// that nobody expected and never undefined behaviour.
#[derive(Debug)]
pub struct SharedMemory {
    words: NonNull<AtomicU64>,
    length: usize,
}

impl SharedMemory {
    /// Creates shared memory of `length` words, all 0. The descriptor is for [`Self::map`] in the other process. Its size is sealed, so
    /// that no access ends with SIGBUS.
    ///
    /// # Errors
    /// Those of memfd_create(2), fcntl(2) and mmap(2): a system call that a filter forbids, no memory, no descriptor.
    pub fn create(name: &str, length: usize) -> io::Result<(Self, OwnedFd)> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let descriptor = match memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
            // Linux before 6.3. Newer ones may be told to refuse a memfd without the flag (vm.memfd_noexec).
            Err(Errno::INVAL) => memfd_create(name, flags)?,
            created => created?,
        };
        ftruncate(&descriptor, bytes(length) as u64)?;
        fcntl_add_seals(&descriptor, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok((Self::map(&descriptor, length)?, descriptor))
    }

    /// Maps shared memory of `length` words.
    ///
    /// # Errors
    /// Those of mmap(2). `InvalidData` where the memory is smaller.
    pub fn map(descriptor: impl AsFd, length: usize) -> io::Result<Self> {
        let size = u64::try_from(fstat(&descriptor)?.st_size).unwrap_or(0);
        if size < bytes(length) as u64 || length == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the shared memory is too small"));
        }
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, where the kernel likes, touches no memory that is in use.
        let start = unsafe {
            mmap(std::ptr::null_mut(), bytes(length), protection, MapFlags::SHARED, descriptor, 0)
        }?;
        let words = NonNull::new(start.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { words, length })
    }

    /// Keeps the mapping from processes that this one forks (`MADV_DONTFORK`, madvise(2)): in them every access is a fault.
    ///
    /// # Errors
    /// Those of madvise(2).
    pub fn keep_from_children(&self) -> io::Result<()> {
        // SAFETY: the range is the mapping. The advice changes nothing in this process.
        Ok(unsafe { madvise(self.words.as_ptr().cast(), bytes(self.length), Advice::LinuxDontFork) }?)
    }
}

impl Deref for SharedMemory {
    type Target = [AtomicU64];

    fn deref(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is readable and writable, aligned to a page, `length` words long, and lives as long as `self`. The file
        // behind it never shrinks: its size is sealed, or belongs to the process that sealed it. Every value is a valid AtomicU64,
        // and both processes touch it by atomic operations only, of which those in another process count as any other thread's.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr(), self.length) }
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: the range is the mapping, which nothing borrows any more. An error would leave it mapped, which harms nobody.
        let _ = unsafe { munmap(self.words.as_ptr().cast(), bytes(self.length)) };
    }
}

/// The size of `length` words.
fn bytes(length: usize) -> usize {
    length * size_of::<AtomicU64>()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn a_word_written_through_one_mapping_is_read_through_the_other() {
        let (one, descriptor) = SharedMemory::create("test", 1000).unwrap();
        let other = SharedMemory::map(&descriptor, 1000).unwrap();
        assert!(one.iter().all(|word| word.load(Ordering::Relaxed) == 0));
        one[999].store(7, Ordering::Release);
        assert_eq!((other[999].load(Ordering::Acquire), other.len()), (7, 1000));
        drop(one);
        assert_eq!(other[999].load(Ordering::Acquire), 7);
    }

    #[test]
    fn nobody_can_change_the_size() {
        let (_memory, descriptor) = SharedMemory::create("test", 1000).unwrap();
        for size in [0, 1 << 20] {
            assert_eq!(ftruncate(&descriptor, size), Err(Errno::PERM));
        }
        assert_eq!(fcntl_add_seals(&descriptor, SealFlags::WRITE), Err(Errno::PERM));
        assert!(SharedMemory::map(&descriptor, 1 << 20).is_err());
    }
}
