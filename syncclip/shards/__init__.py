"""WebDataset shards on disk or S3: layout, writer, reader, cache and index (independent of CLIP and Ray).

A sharded dataset is a folder or prefix with three files per shard:

    00000.tar           members 000000017.jpg .cls .txt .json (image, label id, text, provenance);
                        the bundled datasets contain only the .jpg members
    00000.parquet       the same metadata as a table, with the offset and size of every image in the tar
    00000_stats.json    commit marker, written last; shards without a valid marker are ignored
"""
