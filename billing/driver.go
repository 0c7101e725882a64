//go:build !mipsle

package billing

import _ "modernc.org/sqlite" // the database/sql driver; it has no port to mipsle
