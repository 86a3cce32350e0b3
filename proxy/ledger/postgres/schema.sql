-- The ledger's tables and functions, version 2. Order lives here and nowhere else.

CREATE SCHEMA crossfade;

CREATE TABLE crossfade.schema_version (version integer NOT NULL);
INSERT INTO crossfade.schema_version VALUES (2);

CREATE TABLE crossfade.migrations (
    number        integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name          text NOT NULL UNIQUE,
    epoch         bigint NOT NULL DEFAULT 1,
    phase         text NOT NULL DEFAULT 'old_only',
    primary_store text NOT NULL DEFAULT 'old' CHECK (primary_store IN ('old', 'new')),
    percent       float8 NOT NULL DEFAULT 0 CHECK (percent BETWEEN 0 AND 100),
    hold          boolean NOT NULL DEFAULT false,
    flags         jsonb NOT NULL DEFAULT '{}'
);

CREATE TABLE crossfade.replicas (
    replica_id  text PRIMARY KEY,
    migration   integer NOT NULL REFERENCES crossfade.migrations,
    address     text NOT NULL,
    acked_epoch bigint NOT NULL DEFAULT 0,
    lease_until timestamptz NOT NULL,
    ledger_down text NOT NULL,
    swept       boolean NOT NULL DEFAULT false,
    clean_exit  boolean NOT NULL DEFAULT false,
    started_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE crossfade.intents (
    seq         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    migration   integer NOT NULL,
    collection  text NOT NULL,
    key         text NOT NULL,
    op          text NOT NULL,
    replica_id  text NOT NULL,
    idem        text NOT NULL DEFAULT '',
    xid         xid8 NOT NULL DEFAULT pg_current_xact_id(),
    snapshot    pg_snapshot NOT NULL,
    settled_xid xid8
);
CREATE INDEX intents_key ON crossfade.intents (migration, collection, key);
CREATE INDEX intents_xid ON crossfade.intents (migration, xid);
CREATE INDEX intents_open ON crossfade.intents (migration, replica_id) WHERE settled_xid IS NULL;
CREATE INDEX intents_settled ON crossfade.intents (migration, settled_xid)
    WHERE settled_xid IS NOT NULL;

CREATE TABLE crossfade.idempotency (
    migration integer NOT NULL,
    idem      text NOT NULL,
    digest    text NOT NULL,
    collection text NOT NULL,
    key       text NOT NULL,
    answer    jsonb,
    at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (migration, idem)
);
CREATE INDEX idempotency_at ON crossfade.idempotency (at);

CREATE TABLE crossfade.dirty (
    migration  integer NOT NULL,
    collection text NOT NULL,
    key        text NOT NULL,
    xid        xid8 NOT NULL DEFAULT pg_current_xact_id(),
    reason     text NOT NULL,
    since      timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (migration, collection, key)
);

CREATE INDEX dirty_since ON crossfade.dirty (migration, collection, since, key);

CREATE TABLE crossfade.copy_snapshots (
    snapshot_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    migration   integer NOT NULL,
    collection  text NOT NULL,
    copying     boolean NOT NULL,
    snapshot    pg_snapshot,
    expires_at  timestamptz NOT NULL
);

-- Keys that one copy alone may write for the time being.
CREATE TABLE crossfade.copy_claims (
    migration   integer NOT NULL,
    collection  text NOT NULL,
    key         text NOT NULL,
    snapshot_id bigint NOT NULL,
    expires_at  timestamptz NOT NULL,
    PRIMARY KEY (migration, collection, key)
);
CREATE INDEX copy_claims_snapshot ON crossfade.copy_claims (snapshot_id);

CREATE TABLE crossfade.jobs (
    job_id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    migration   integer NOT NULL,
    kind        text NOT NULL,
    state       text NOT NULL DEFAULT 'requested',
    wanted      text NOT NULL DEFAULT 'running',
    epoch       bigint NOT NULL,
    params      jsonb NOT NULL,
    summary     jsonb NOT NULL DEFAULT '{}',
    owner       text NOT NULL DEFAULT '',
    lease_until timestamptz NOT NULL DEFAULT '-infinity',
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    started_at  timestamptz,
    finished_at timestamptz,
    error       text NOT NULL DEFAULT ''
);

CREATE TABLE crossfade.ranges (
    job_id     bigint NOT NULL REFERENCES crossfade.jobs ON DELETE CASCADE,
    collection text NOT NULL,
    number     integer NOT NULL,
    after      text,
    upto       text,
    cursor     text,
    done       boolean NOT NULL DEFAULT false,
    tally      jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (job_id, collection, number)
);

CREATE TABLE crossfade.differences (
    job_id     bigint NOT NULL REFERENCES crossfade.jobs ON DELETE CASCADE,
    collection text NOT NULL,
    key        text NOT NULL,
    kind       text NOT NULL,
    fields     text[] NOT NULL,
    detail     jsonb NOT NULL,
    PRIMARY KEY (job_id, collection, key)
);

CREATE TABLE crossfade.dead_letters (
    letter_id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    migration   integer NOT NULL,
    job_id      bigint NOT NULL,
    collection  text NOT NULL,
    key         text NOT NULL,
    reason      text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    resolved_at timestamptz,
    resolution  text NOT NULL DEFAULT ''
);
CREATE UNIQUE INDEX dead_letters_open ON crossfade.dead_letters (migration, collection, key)
    WHERE resolved_at IS NULL;

CREATE TABLE crossfade.events (
    event_id  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    migration integer NOT NULL,
    at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    kind      text NOT NULL,
    actor     text NOT NULL,
    reason    text NOT NULL,
    epoch     bigint NOT NULL,
    detail    jsonb NOT NULL
);

CREATE TABLE crossfade.shadow_stats (
    migration  integer NOT NULL,
    replica_id text NOT NULL,
    time_window text NOT NULL,
    epoch      bigint NOT NULL,
    stats      jsonb NOT NULL,
    PRIMARY KEY (migration, replica_id, time_window)
);

-- The gate: writers and copiers hold it shared while they append or register, a change of
-- routing holds it alone. So nothing is appended under an epoch that has ended.
CREATE FUNCTION crossfade.enter_shared(migration_number integer) RETURNS void
LANGUAGE sql AS $$ SELECT pg_advisory_xact_lock_shared(1668441716, migration_number) $$;

CREATE FUNCTION crossfade.enter_alone(migration_number integer) RETURNS void
LANGUAGE sql AS $$ SELECT pg_advisory_xact_lock(1668441716, migration_number) $$;

-- Append intents, all or none. `status` is "ok", "stale", "lease", or "busy" / "reused" with the
-- idempotency key in `idem`; then nothing was appended. "resumed": appended, and the idempotency
-- key was seen before, with no answer on record.
CREATE FUNCTION crossfade.append_intents(
    migration_number integer, at_epoch bigint, by_replica text,
    collections text[], keys text[], ops text[], idems text[], digests text[]
) RETURNS TABLE (
    status text, seq bigint, collection text, key text, idem text, snapshot text, answer jsonb
)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    found_row record;
    fresh text[];
BEGIN
    PERFORM crossfade.enter_shared(migration_number);
    PERFORM 1 FROM crossfade.migrations m
        WHERE m.number = migration_number AND m.epoch = at_epoch AND NOT m.hold;
    IF NOT FOUND THEN
        RETURN QUERY SELECT 'stale', 0::bigint, '', '', '', '', NULL::jsonb;
        RETURN;
    END IF;
    PERFORM 1 FROM crossfade.replicas r
        WHERE r.replica_id = by_replica AND NOT r.swept AND r.lease_until > clock_timestamp();
    IF NOT FOUND THEN
        RETURN QUERY SELECT 'lease', 0::bigint, '', '', '', '', NULL::jsonb;
        RETURN;
    END IF;
    IF idems IS NOT NULL THEN
        WITH made AS (
            INSERT INTO crossfade.idempotency AS d (migration, idem, digest, collection, key)
            SELECT migration_number, t.idem, t.digest, t.collection, t.key
            FROM unnest(idems, digests, collections, keys) AS t (idem, digest, collection, key)
            WHERE t.idem <> '' ORDER BY t.idem
            ON CONFLICT (migration, idem) DO NOTHING
            RETURNING d.idem
        ) SELECT coalesce(array_agg(made.idem), '{}') INTO fresh FROM made;
    END IF;
    -- Nearly every key is new: only where one was seen before is there anything to look up.
    IF cardinality(fresh) < cardinality(array_remove(idems, '')) THEN
        FOR found_row IN
            SELECT t.idem, d.digest <> t.digest AS reused,
                   d.answer IS NULL AND (
                       -- Twice in this very append, or under a key that the first try, which came
                       -- after this one had asked for it, did not allocate.
                       count(*) OVER (PARTITION BY t.idem) > 1 OR d.key <> t.key
                       OR EXISTS (
                           SELECT 1 FROM crossfade.intents i
                           WHERE i.migration = migration_number AND i.idem = t.idem
                             AND i.settled_xid IS NULL
                       )
                   ) AS busy
            FROM unnest(idems, digests, keys) AS t (idem, digest, key)
            JOIN crossfade.idempotency d ON d.migration = migration_number AND d.idem = t.idem
            WHERE t.idem <> ''
        LOOP
            IF found_row.reused OR found_row.busy THEN
                DELETE FROM crossfade.idempotency d
                WHERE d.migration = migration_number AND d.idem = ANY (fresh);
                RETURN QUERY SELECT CASE WHEN found_row.reused THEN 'reused' ELSE 'busy' END,
                    0::bigint, '', '', found_row.idem, '', NULL::jsonb;
                RETURN;
            END IF;
        END LOOP;
        RETURN QUERY
            SELECT 'ok', 0::bigint, t.collection, t.key, t.idem, '', d.answer
            FROM unnest(idems, collections, keys) AS t (idem, collection, key)
            JOIN crossfade.idempotency d ON d.migration = migration_number AND d.idem = t.idem
            WHERE d.answer IS NOT NULL;
        RETURN QUERY
            INSERT INTO crossfade.intents AS i
                (migration, collection, key, op, replica_id, idem, snapshot)
            SELECT migration_number, t.collection, t.key, t.op, by_replica, t.idem,
                   pg_current_snapshot()
            FROM unnest(collections, keys, ops, idems) AS t (collection, key, op, idem)
            WHERE NOT EXISTS (
                SELECT 1 FROM crossfade.idempotency d
                WHERE d.migration = migration_number AND d.idem = t.idem AND d.answer IS NOT NULL
            )
            RETURNING CASE WHEN i.idem = '' OR i.idem = ANY (fresh) THEN 'ok' ELSE 'resumed' END,
                i.seq, i.collection, i.key, i.idem, i.snapshot::text, NULL::jsonb;
    ELSE
        RETURN QUERY
            INSERT INTO crossfade.intents AS i
                (migration, collection, key, op, replica_id, idem, snapshot)
            SELECT migration_number, t.collection, t.key, t.op, by_replica, coalesce(t.idem, ''),
                   pg_current_snapshot()
            FROM unnest(collections, keys, ops, idems) AS t (collection, key, op, idem)
            RETURNING 'ok', i.seq, i.collection, i.key, i.idem, i.snapshot::text, NULL::jsonb;
    END IF;
END
$$;

-- Close intents. A key is dirty if its end was not clean, if another replica's intent overlapped
-- (it was not settled, visibly, when mine was appended), or if mine was taken over meanwhile.
-- The intents in `undone` applied nothing: their idempotency keys are forgotten.
CREATE FUNCTION crossfade.settle_intents(
    migration_number integer, seqs bigint[], collections text[], keys text[],
    snapshots text[], replicas text[], cleans boolean[], reasons text[],
    undone bigint[], answer_idems text[], answers text[]
) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    told jsonb;
BEGIN
    INSERT INTO crossfade.dirty AS d (migration, collection, key, reason)
    SELECT DISTINCT ON (t.collection, t.key) migration_number, t.collection, t.key,
           CASE WHEN NOT t.clean THEN t.reason
                WHEN mine.seq IS NULL OR mine.settled_xid IS NOT NULL THEN 'taken over'
                ELSE 'overlapping writes' END
    FROM unnest(seqs, collections, keys, snapshots, replicas, cleans, reasons)
         AS t (seq, collection, key, snapshot, replica, clean, reason)
    LEFT JOIN crossfade.intents mine ON mine.seq = t.seq
    WHERE NOT t.clean OR mine.seq IS NULL OR mine.settled_xid IS NOT NULL
       OR EXISTS (
            SELECT 1 FROM crossfade.intents o
            WHERE o.migration = migration_number AND o.collection = t.collection
              AND o.key = t.key AND o.seq <> t.seq AND o.replica_id <> t.replica
              AND (o.settled_xid IS NULL
                   OR NOT pg_visible_in_snapshot(o.settled_xid, t.snapshot::pg_snapshot))
       )
    ORDER BY t.collection, t.key
    ON CONFLICT (migration, collection, key)
        DO UPDATE SET xid = pg_current_xact_id(), reason = excluded.reason;
    IF answer_idems IS NOT NULL THEN
        told := jsonb_object(answer_idems, answers);
        UPDATE crossfade.idempotency d SET answer = (told ->> d.idem)::jsonb
        WHERE d.migration = migration_number AND d.idem = ANY (answer_idems);
    END IF;
    IF undone IS NOT NULL THEN
        -- Not if the intent was taken over, or settled by this very call before its answer was
        -- lost: another try may be on its way by now, or be answered.
        DELETE FROM crossfade.idempotency d
        WHERE d.migration = migration_number AND d.answer IS NULL AND d.idem = ANY (ARRAY(
            SELECT i.idem FROM crossfade.intents i
            WHERE i.seq = ANY (undone) AND coalesce(i.settled_xid, '0'::xid8) = '0'::xid8
        ));
    END IF;
    -- Written so that the index of open intents cannot serve: by the primary key it is one look-up
    -- an intent, there it would be one for every intent since the last vacuum.
    UPDATE crossfade.intents i SET settled_xid = pg_current_xact_id()
        WHERE i.seq = ANY (seqs) AND coalesce(i.settled_xid, '0'::xid8) = '0'::xid8;
END
$$;

-- Step 5 of the copy rule, for one snapshot.
CREATE FUNCTION crossfade.finish_copy(
    migration_number integer, of_snapshot bigint, of_collection text,
    touched text[], left_out text[]
) RETURNS TABLE (status text, dirty_keys text[], cleared bigint)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    seen pg_snapshot;
    outlived boolean;
    marked text[];
    cleared_count bigint;
BEGIN
    DELETE FROM crossfade.copy_snapshots c
        WHERE c.snapshot_id = of_snapshot AND c.expires_at > clock_timestamp()
        RETURNING c.snapshot INTO seen;
    outlived := NOT FOUND;
    DELETE FROM crossfade.copy_claims c WHERE c.snapshot_id = of_snapshot;
    IF outlived THEN
        -- The copy outlived its snapshot: what it wrote may be stale, so everything is dirty.
        INSERT INTO crossfade.dirty AS d (migration, collection, key, reason)
            SELECT DISTINCT migration_number, of_collection, t.key, 'copy outlived its snapshot'
            FROM unnest(touched || left_out) AS t (key) ORDER BY 3
            ON CONFLICT (migration, collection, key) DO UPDATE SET xid = pg_current_xact_id();
        RETURN QUERY SELECT 'expired', touched, 0::bigint;
        RETURN;
    END IF;
    -- Marks are locked in key order, as settle does, so that the two never deadlock.
    PERFORM 1 FROM crossfade.dirty d
        WHERE d.migration = migration_number AND d.collection = of_collection
          AND d.key = ANY (touched || left_out) ORDER BY d.key FOR UPDATE;
    SELECT coalesce(array_agg(DISTINCT k.key), '{}') INTO marked FROM (
        SELECT i.key FROM crossfade.intents i
        WHERE i.migration = migration_number AND i.xid >= pg_snapshot_xmin(seen)
          AND i.collection = of_collection AND NOT pg_visible_in_snapshot(i.xid, seen)
          AND i.key = ANY (touched)
        UNION ALL SELECT unnest(left_out)
    ) k;
    INSERT INTO crossfade.dirty AS d (migration, collection, key, reason)
        SELECT migration_number, of_collection, t.key, 'written during a copy'
        FROM unnest(marked) AS t (key) ORDER BY t.key
        ON CONFLICT (migration, collection, key) DO UPDATE SET xid = pg_current_xact_id();
    WITH gone AS (
        DELETE FROM crossfade.dirty d
        WHERE d.migration = migration_number AND d.collection = of_collection
          AND d.key = ANY (touched) AND pg_visible_in_snapshot(d.xid, seen)
        RETURNING 1
    ) SELECT count(*) INTO cleared_count FROM gone;
    RETURN QUERY SELECT 'ok', marked, cleared_count;
END
$$;

-- Take over the unsettled intents of replicas whose lease has run out.
CREATE FUNCTION crossfade.sweep(migration_number integer) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    taken bigint;
BEGIN
    UPDATE crossfade.replicas SET swept = true
        WHERE migration = migration_number AND NOT swept
          AND (clean_exit OR lease_until <= clock_timestamp());
    WITH dead AS (
        UPDATE crossfade.intents i SET settled_xid = pg_current_xact_id()
        WHERE i.migration = migration_number AND i.settled_xid IS NULL
          AND NOT EXISTS (SELECT 1 FROM crossfade.replicas r
                          WHERE r.replica_id = i.replica_id AND NOT r.swept)
        RETURNING i.collection, i.key
    ), marks AS (
        INSERT INTO crossfade.dirty AS d (migration, collection, key, reason)
        SELECT DISTINCT migration_number, dead.collection, dead.key, 'left by a dead replica'
        FROM dead ORDER BY 2, 3
        ON CONFLICT (migration, collection, key)
            DO UPDATE SET xid = pg_current_xact_id(), reason = excluded.reason
    ) SELECT count(*) INTO taken FROM dead;
    RETURN taken;
END
$$;
