"""Text in, token ids out: text → words (`tokenise`) → pieces (`bpe`) → ids (`binary`), read in `windows`."""
