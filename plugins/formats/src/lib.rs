//! On-disk formats that more than one plugin reads or writes.
