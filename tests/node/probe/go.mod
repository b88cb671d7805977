module bubustack.io/storage-operator/tests/node/probe

go 1.26.0
