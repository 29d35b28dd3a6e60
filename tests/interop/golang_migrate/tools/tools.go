//go:build tools

// Package tools names the command that the tests build.
package tools

import _ "github.com/golang-migrate/migrate/v4/cmd/migrate"
