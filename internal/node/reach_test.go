package node

import "testing"

func TestDeviceBytes(t *testing.T) {
	const text = `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:  100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0
cuttle0:12345678901    20    0    0    0     0          0         0      777      12    0    0    0     0       0          0
cuttle01:      5       1    0    0    0     0          0         0        6       1    0    0    0     0       0          0
broken: x
`
	for _, c := range []struct {
		device        string
		received, out uint64
	}{{"cuttle0", 12345678901, 777}, {"cuttle01", 5, 6}, {"lo", 100, 100}, {"none", 0, 0}, {"broken", 0, 0}} {
		if r, s := deviceBytes(text, c.device); r != c.received || s != c.out {
			t.Errorf("%s: got %d, %d; want %d, %d", c.device, r, s, c.received, c.out)
		}
	}
}
