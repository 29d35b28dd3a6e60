//go:build tools

// Package tools names the command that the tests build.
package tools

import _ "github.com/pressly/goose/v3/cmd/goose"
