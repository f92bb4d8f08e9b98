//! O_DIRECT files over an io_uring ring.
