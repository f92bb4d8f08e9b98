//! A disk in memory that tears, drops and fails under a seed.
