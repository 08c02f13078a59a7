CREATE TABLE migrations (number INTEGER PRIMARY KEY, name TEXT NOT NULL, applied TEXT NOT NULL) STRICT;

-- embedder, dim, chunker, terms: what the rows below were made with; vectors: the name of the table of vectors
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;

CREATE TABLE documents (
  id INTEGER PRIMARY KEY,
  source TEXT NOT NULL UNIQUE,
  sha256 TEXT NOT NULL,
  settings TEXT NOT NULL,      -- what the ingest was told about it; other settings make it a changed document
  type TEXT NOT NULL,
  title TEXT NOT NULL,
  language TEXT NOT NULL,
  date TEXT NOT NULL,
  tags TEXT NOT NULL,          -- JSON array
  characters INTEGER NOT NULL,
  blocks BLOB NOT NULL         -- zlib(JSON): a rebuild chunks anew without the source
) STRICT;

-- The extracted text in pieces, so that a span of a long document is read without all of it.
CREATE TABLE pieces (
  document_id INTEGER NOT NULL REFERENCES documents ON DELETE CASCADE,
  start INTEGER NOT NULL,      -- character offset, a multiple of the piece's length
  content BLOB NOT NULL,       -- zlib(UTF-8)
  PRIMARY KEY (document_id, start)
) STRICT, WITHOUT ROWID;

CREATE TABLE chunks (
  id INTEGER PRIMARY KEY,
  document_id INTEGER NOT NULL REFERENCES documents ON DELETE CASCADE,
  ordinal INTEGER NOT NULL,
  start INTEGER NOT NULL,
  "end" INTEGER NOT NULL,
  headings TEXT NOT NULL,      -- JSON array
  page INTEGER,
  kind TEXT NOT NULL,
  terms INTEGER NOT NULL,      -- how many index terms it has: BM25's document length
  summary TEXT                 -- the text of a chunk of kind 'summary'; any other's is a span of its document
) STRICT;
CREATE INDEX chunks_of_document ON chunks (document_id, ordinal);

-- The terms come normalised from edge.lexical, parted by spaces; this tokenizer only parts them again.
CREATE VIRTUAL TABLE chunks_fts USING fts5(
  terms, content = '', contentless_delete = 1,
  tokenize = "unicode61 remove_diacritics 0 categories 'L* N* M* Co' tokenchars '_'"
);
