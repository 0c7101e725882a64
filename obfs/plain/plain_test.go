package plain_test

import (
	"testing"

	"go.uber.org/goleak"

	"cuttle/obfs/obfstest"
	"cuttle/obfs/plain"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var subject = obfstest.Subject{Mask: plain.Mask{}}

func TestConformance(t *testing.T) { obfstest.Run(t, subject) }

func BenchmarkThroughput(b *testing.B) { obfstest.Throughput(b, subject) }
