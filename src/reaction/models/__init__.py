"""Networks, one file per paper or backbone; each file's header names the paper and what differs from it."""
