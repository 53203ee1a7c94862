-- Volumes. Times are microseconds since 1970, UTC. A name is unique among the volumes that are not removed;
-- one that is being created holds its name already.
CREATE TABLE volumes (
    id            TEXT    PRIMARY KEY NOT NULL,
    name          TEXT    NOT NULL,
    store         TEXT    NOT NULL,
    kind          TEXT    NOT NULL CHECK (kind IN ('chunked', 'plain')),
    phase         TEXT    NOT NULL CHECK (phase IN ('creating', 'active', 'removed', 'purging')),
    options       TEXT    NOT NULL,
    labels        TEXT    NOT NULL,
    protected     INTEGER NOT NULL CHECK (protected IN (0, 1)),
    quota_pending INTEGER NOT NULL DEFAULT 0 CHECK (quota_pending IN (0, 1)),
    created_at    BIGINT  NOT NULL,
    removed_at    BIGINT,
    purge_at      BIGINT
);
CREATE UNIQUE INDEX volumes_by_name ON volumes (name) WHERE phase IN ('creating', 'active');
CREATE INDEX volumes_by_phase ON volumes (phase);

-- Why a volume is mounted on this host. `pending` until the mount was seen to work.
CREATE TABLE attachments (
    id            TEXT    PRIMARY KEY NOT NULL,
    volume        TEXT    NOT NULL REFERENCES volumes (id),
    kind          TEXT    NOT NULL CHECK (kind IN ('docker', 'directory', 'internal')),
    holder        TEXT    NOT NULL,
    read_only     INTEGER NOT NULL CHECK (read_only IN (0, 1)),
    phase         TEXT    NOT NULL CHECK (phase IN ('pending', 'held')),
    since         BIGINT  NOT NULL,
    suspect_since BIGINT
);
CREATE INDEX attachments_by_volume ON attachments (volume);
CREATE UNIQUE INDEX attachments_by_mount_id ON attachments (volume, holder) WHERE kind = 'docker';
CREATE UNIQUE INDEX attachments_by_directory ON attachments (holder) WHERE kind = 'directory';

-- Where the audit journal ended at last sight, so that a cut tail is noticed; and the changes that were begun.
CREATE TABLE audit_head (
    one  INTEGER PRIMARY KEY NOT NULL CHECK (one = 1),
    seq  BIGINT  NOT NULL,
    hash TEXT    NOT NULL
);
CREATE TABLE audit_open (
    change BIGINT PRIMARY KEY NOT NULL,
    actor  TEXT   NOT NULL,
    verb   TEXT   NOT NULL,
    target TEXT   NOT NULL
);
