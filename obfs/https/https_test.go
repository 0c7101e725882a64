package https

import (
	"testing"

	"go.uber.org/goleak"

	"cuttle/obfs/obfstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var tested = obfstest.Subject{Mask: Mask{}, Params: map[string]string{"name": "www.example.org"}, Keyed: true}

func TestConformance(t *testing.T) { obfstest.Run(t, tested) }

func BenchmarkThroughput(b *testing.B) { obfstest.Throughput(b, tested) }
