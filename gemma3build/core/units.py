"""Units of memory and disk, in bytes."""

MEGABYTE = 1_000_000
MEBIBYTE = 1 << 20
GIBIBYTE = 1 << 30
