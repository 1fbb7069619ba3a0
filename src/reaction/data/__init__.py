"""From archives to HDF5 shards: fetching, indexing, decoding, storing."""
