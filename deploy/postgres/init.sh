#!/bin/sh
# Runs once, when compose's PostgreSQL starts on an empty volume: the old and the new database of the
# doc server with their tables, and a third one for the ledger.
set -eu
for name in old new ledger; do
    psql -v ON_ERROR_STOP=1 -U "$POSTGRES_USER" -d postgres -c "CREATE DATABASE $name"
done
psql -v ON_ERROR_STOP=1 -U "$POSTGRES_USER" -d old -f /schemas/doc_server_old.sql
psql -v ON_ERROR_STOP=1 -U "$POSTGRES_USER" -d new -f /schemas/doc_server_new.sql
