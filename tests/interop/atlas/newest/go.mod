module godwit.dev/tests/interop/atlas/newest

go 1.25.0

require (
	ariga.io/atlas v1.2.2
	github.com/lib/pq v1.10.9
)
