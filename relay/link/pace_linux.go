package link

import (
	"math"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	bbr = "bbr"

	startupGain = 2 * 256 // the least pacing gain (of 256) that only the startup has
)

// setSystemOptions has the kernel send by BBR, whose rate does not fall with every
// loss. Best effort: the kernel may have none.
func setSystemOptions(fd int) {
	_ = unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, bbr)
}

// widenSending has the kernel keep twice sendBuffer. Best effort: it may not let us.
func widenSending(socket syscall.RawConn) {
	_ = socket.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, sendBuffer)
	})
}

// readSending asks the kernel; false if the connection is not under BBR.
func readSending(socket syscall.RawConn) (s sending, ok bool) {
	err := socket.Control(func(fd uintptr) {
		name, err := unix.GetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION)
		if err != nil || name != bbr {
			return
		}
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			return
		}
		b, err := unix.GetsockoptTCPCCBBRInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_CC_INFO)
		if err != nil {
			return
		}
		s = sending{
			segments: info.Data_segs_out, repeated: info.Total_retrans,
			rate: uint64(b.Bw_hi)<<32 | uint64(b.Bw_lo), paced: info.Pacing_rate, trip: time.Duration(info.Rtt) * time.Microsecond, startup: b.Pacing_gain > startupGain,
			held: info.Notsent_bytes >= notSentLowat/2, // less would have woken the writer
		}
		ok = true
	})
	return s, ok && err == nil
}

// boundSending has the kernel send at most so many bytes a second; 0: as many as it
// likes. Best effort: a link works without.
func boundSending(socket syscall.RawConn, rate uint64) {
	if rate == 0 || rate > math.MaxInt32 {
		rate = math.MaxUint32 // what the kernel takes for no bound
	}
	_ = socket.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MAX_PACING_RATE, int(uint32(rate)))
	})
}

// restartSending has BBR begin with its startup again: it is put in anew.
func restartSending(socket syscall.RawConn) {
	_ = socket.Control(func(fd uintptr) {
		_ = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, "reno") // every kernel has it
		_ = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, bbr)
	})
}
