package migrate

import "errors"

// WithFromVersion is the library's part of the flag --from of `atlas migrate apply`, which later releases took away.
// The command line still names it, and no test gives that flag.
func WithFromVersion(string) ExecutorOption {
	return func(*Executor) error { return errors.New("--from is not part of this library") }
}
