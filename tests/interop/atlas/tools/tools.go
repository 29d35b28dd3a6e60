//go:build tools

// Package tools names the command that the tests build.
package tools

import _ "ariga.io/atlas/cmd/atlas"
