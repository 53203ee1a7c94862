-- Stores: how each is reached and what it was found able to do. Credentials are references, never the secrets.
CREATE TABLE stores (
    name          TEXT    PRIMARY KEY NOT NULL,
    url           TEXT    NOT NULL,
    settings      TEXT    NOT NULL,
    credentials   TEXT,
    capabilities  TEXT,
    created_at    BIGINT  NOT NULL,
    examined_at   BIGINT
);
CREATE INDEX volumes_by_store ON volumes (store);

-- Of a plain volume: its folder; whether the folder was there before; and whether it still has to go to the trash.
ALTER TABLE volumes ADD COLUMN folder     TEXT;
ALTER TABLE volumes ADD COLUMN adopted    INTEGER NOT NULL DEFAULT 0 CHECK (adopted IN (0, 1));
ALTER TABLE volumes ADD COLUMN discarding INTEGER NOT NULL DEFAULT 0 CHECK (discarding IN (0, 1));
