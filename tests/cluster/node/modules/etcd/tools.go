//go:build tools

// Package tools keeps the programs of this module in go.mod.
package tools

import (
	_ "go.etcd.io/etcd/server/v3"
)
