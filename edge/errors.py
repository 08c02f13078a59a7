"""Every error this package raises on purpose. The message says what happened and what to do about it.

EdgeError                     base: exit code 1
├── UsageError                the call is wrong: empty question, unknown filter key, no such path (exit 2)
├── ConfigError               a YAML file has an unknown key, a wrong type or is missing; names file and line
├── BundleError               a bundle is missing, damaged, or of a newer schema
├── StoreError                the index cannot be used
│   ├── StoreMissing          there is no index yet
│   ├── StoreMismatch         it was built with another embedder or another chunker
│   ├── StoreCorrupt          SQLite says the file is damaged
│   ├── StoreBusy             another process is writing to it
│   └── StoreFull             the disk is full; nothing was changed
├── DocumentError             one document cannot be read (the ingest goes on with the others)
│   ├── UnsupportedDocument   no reader for this kind of file, or the extra it needs is not installed
│   ├── DocumentTooLarge      above the limit in the configuration
│   └── ParserFailed          the parser crashed, hung, or went over its memory limit
├── PromptTooLong             the question does not fit the context; says by how many tokens
├── BudgetExceeded            the memory budget does not hold what is to be loaded; says what would fit
├── EngineError               the model cannot be loaded or fails while generating
├── KeysError                 the file of API keys is damaged, or others may write it: nobody is let in
├── DeployError               an installation is refused or failed; the box serves what it served before
│   ├── ArchiveError          an archive of a bundle is damaged, malformed, too large or of a newer schema
│   ├── RegistryError         a registry cannot be reached, refuses, or answers with something else
│   └── TrustError            it is unsigned, signed by nobody trusted, expired, or older than what was installed
├── SourceError               a base model cannot be fetched, or its hash is wrong
│   └── OfflineError          it would need the network, which EDGE_OFFLINE=1 forbids or which does not answer
├── ResultError               a benchmark's result file is missing, damaged, or of another schema
├── PeerError                 the peer of a benchmark is down, slow, or answers nonsense
├── DatasetError              training data are missing, malformed or not those that were split; names the lines
└── BuildError                a stage of `edge optimize run` failed; names its log
    └── GateError             the build works but lost too much quality: not packaged (exit 4)
"""

from __future__ import annotations


class EdgeError(Exception):
    """Base of all errors raised on purpose; `exit_code` is what the CLI returns for it."""

    exit_code = 1


class UsageError(EdgeError):
    exit_code = 2


class ConfigError(EdgeError):
    pass


class BundleError(EdgeError):
    pass


class StoreError(EdgeError):
    pass


class StoreMissing(StoreError):
    pass


class StoreMismatch(StoreError):
    pass


class StoreCorrupt(StoreError):
    pass


class StoreBusy(StoreError):
    pass


class StoreFull(StoreError):
    pass


class DocumentError(EdgeError):
    pass


class UnsupportedDocument(DocumentError):
    pass


class DocumentTooLarge(DocumentError):
    pass


class ParserFailed(DocumentError):
    pass


class PromptTooLong(EdgeError):
    pass


class BudgetExceeded(EdgeError):
    pass


class EngineError(EdgeError):
    pass


class KeysError(EdgeError):
    pass


class DeployError(EdgeError):
    pass


class ArchiveError(DeployError):
    pass


class RegistryError(DeployError):
    pass


class TrustError(DeployError):
    pass


class SourceError(EdgeError):
    pass


class OfflineError(SourceError):
    pass


class ResultError(EdgeError):
    pass


class PeerError(EdgeError):
    pass


class DatasetError(EdgeError):
    pass


class BuildError(EdgeError):
    pass


class GateError(BuildError):
    exit_code = 4
