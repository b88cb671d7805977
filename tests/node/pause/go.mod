module bubustack.io/storage-operator/tests/node/pause

go 1.26.0
