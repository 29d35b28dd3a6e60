// Package main lets the newest Atlas library work on a folder and a database, with the table read and written
// as here: its own command line of that release is no module that can be had.
//
//	program pending|apply FOLDER URL
//
// It prints the versions that are pending, before it applies them.
package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"ariga.io/atlas/sql/migrate"
	"ariga.io/atlas/sql/postgres"
	_ "github.com/lib/pq"
)

const columns = "version, description, type, applied, total, executed_at, execution_time, error, error_stmt, hash, partial_hashes, operator_version"

// The history table, in the first schema of search_path.
type table struct{ db *sql.DB }

func (table) Ident() *migrate.TableIdent {
	return &migrate.TableIdent{Name: "atlas_schema_revisions", Schema: "public"}
}

func (t table) read(ctx context.Context, where string, args ...any) (found []*migrate.Revision, err error) {
	rows, err := t.db.QueryContext(ctx, "SELECT "+columns+" FROM atlas_schema_revisions "+where+` ORDER BY version COLLATE "C"`, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var r migrate.Revision
		var hashes []byte
		if err := rows.Scan(&r.Version, &r.Description, &r.Type, &r.Applied, &r.Total, &r.ExecutedAt, &r.ExecutionTime,
			&r.Error, &r.ErrorStmt, &r.Hash, &hashes, &r.OperatorVersion); err != nil {
			return nil, err
		}
		if err := json.Unmarshal(hashes, &r.PartialHashes); err != nil {
			return nil, err
		}
		found = append(found, &r)
	}
	return found, rows.Err()
}

func (t table) ReadRevisions(ctx context.Context) ([]*migrate.Revision, error) {
	return t.read(ctx, "")
}

func (t table) ReadRevision(ctx context.Context, version string) (*migrate.Revision, error) {
	found, err := t.read(ctx, "WHERE version = $1", version)
	if err == nil && len(found) == 0 {
		err = migrate.ErrRevisionNotExist
	}
	if err != nil {
		return nil, err
	}
	return found[0], nil
}

func (t table) WriteRevision(ctx context.Context, r *migrate.Revision) error {
	hashes, err := json.Marshal(r.PartialHashes)
	if err != nil {
		return err
	}
	if err := t.DeleteRevision(ctx, r.Version); err != nil {
		return err
	}
	_, err = t.db.ExecContext(ctx, "INSERT INTO atlas_schema_revisions ("+columns+") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
		r.Version, r.Description, r.Type, r.Applied, r.Total, r.ExecutedAt, r.ExecutionTime, r.Error, r.ErrorStmt, r.Hash, hashes, r.OperatorVersion)
	return err
}

func (t table) DeleteRevision(ctx context.Context, version string) error {
	_, err := t.db.ExecContext(ctx, "DELETE FROM atlas_schema_revisions WHERE version = $1", version)
	return err
}

func run(ctx context.Context, apply bool, folder, url string) error {
	dir, err := migrate.NewLocalDir(folder)
	if err != nil {
		return err
	}
	if err := migrate.Validate(dir); err != nil {
		return err
	}
	db, err := sql.Open("postgres", url)
	if err != nil {
		return err
	}
	defer db.Close()
	driver, err := postgres.Open(db)
	if err != nil {
		return err
	}
	unlock, err := driver.Lock(ctx, "atlas_migrate_execute", 0)
	if err != nil {
		return err
	}
	defer unlock()
	executor, err := migrate.NewExecutor(driver, dir, table{db}, migrate.WithOperatorVersion("Atlas library"))
	if err != nil {
		return err
	}
	pending, err := executor.Pending(ctx)
	if errors.Is(err, migrate.ErrNoPendingFiles) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, file := range pending {
		fmt.Println(file.Version())
		if apply {
			if err := executor.Execute(ctx, file); err != nil {
				return err
			}
		}
	}
	return nil
}

func main() {
	if err := run(context.Background(), os.Args[1] == "apply", os.Args[2], os.Args[3]); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}
