module godwit.dev/tests/interop/goose

go 1.25.0

require github.com/pressly/goose/v3 v3.27.0
