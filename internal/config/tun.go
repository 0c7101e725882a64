package config

import (
	"fmt"
	"runtime"
	"strings"
)

// macDevice is the TUN on macOS unless the file says otherwise: a number that no
// program gets that asks for the next free one.
const macDevice = "utun637"

// nameTUN makes tun.name what this system calls the TUN.
func (c *Config) nameTUN() (err error) {
	c.Tun.Name, err = deviceOn(runtime.GOOS, c.Tun.Name)
	return err
}

// deviceOn gives the TUN's name on a system. macOS knows only utun and a number, so
// that the default means one of these there.
func deviceOn(system, name string) (string, error) {
	if system != "darwin" {
		return name, nil
	}
	if name == "cuttle0" {
		return macDevice, nil
	}
	number, ok := strings.CutPrefix(name, "utun")
	if !ok || number == "" || len(number) > 4 || strings.Trim(number, "0123456789") != "" {
		return "", fmt.Errorf("tun.name %q: want utun and a number of up to four digits on macOS, for example %s", name, macDevice)
	}
	return name, nil
}
