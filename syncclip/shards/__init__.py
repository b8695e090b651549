"""WebDataset shards on disk or S3: their layout, their writer, their reader, and the stream that mixes two sets.

Nothing here knows the names of classes, CLIP or Ray. A set is a folder or a prefix with, for each shard,

    00000.tar           members 000000017.jpg .cls .txt .json (image, label id, text, provenance)
    00000.parquet       the same as a table, with the offset and size of every image in the tar
    00000_stats.json    the commit marker, written last; a shard without a valid marker does not exist
"""
