-- A vector by itself, float32 little-endian, unit length: one is read by its id as fast as any row, which vec0 cannot.
CREATE TABLE vectors (
  id INTEGER PRIMARY KEY REFERENCES chunks ON DELETE CASCADE,
  embedding BLOB NOT NULL
) STRICT;

-- The sign bits of the vectors with ids block*256 .. block*256+255: what a search keeps in memory, quick to read whole.
CREATE TABLE signs (
  block INTEGER PRIMARY KEY,
  generation INTEGER NOT NULL, -- of the index when the block was written: a resident copy reads what is newer
  members BLOB NOT NULL,       -- the ids that there are, as one byte each: id - block*256, ascending
  bits BLOB NOT NULL           -- as many rows of ceil(dim/8) bytes; bit i of a row, from the lowest, is component i > 0
) STRICT;
CREATE INDEX signs_of_generation ON signs (generation);

-- One row of counts, so that a question need not count; and what tells a resident copy that it is old.
CREATE TABLE totals (
  row INTEGER PRIMARY KEY CHECK (row = 1),
  chunks INTEGER NOT NULL,
  terms INTEGER NOT NULL,      -- sum over the chunks
  generation INTEGER NOT NULL, -- counts up when signs are written
  epoch INTEGER NOT NULL       -- counts up when blocks of signs vanish: a resident copy is to be read anew
) STRICT;
INSERT INTO totals SELECT 1, count(*), coalesce(sum(terms), 0), 0, 0 FROM chunks;
CREATE TRIGGER chunks_count_in AFTER INSERT ON chunks BEGIN
  UPDATE totals SET chunks = chunks + 1, terms = terms + NEW.terms;
END;
CREATE TRIGGER chunks_count_out AFTER DELETE ON chunks BEGIN
  UPDATE totals SET chunks = chunks - 1, terms = terms - OLD.terms;
END;

CREATE INDEX documents_of_language ON documents (language);
