module godwit.dev/tests/interop/atlas

go 1.24

require (
	ariga.io/atlas v0.22.0
	ariga.io/atlas/cmd/atlas v0.13.1
	golang.org/x/tools v0.30.0
)
