"""One thin command per rule: paths and settings in, library calls, files out."""
