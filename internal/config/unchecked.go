package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// LoadUnchecked is Load for commands that help to complete a configuration:
// values that cuttled would refuse are accepted, and a file that is not there is
// the default one.
func LoadUnchecked(path string) (*Config, error) {
	var c Config
	if err := decode(defaultFile, &c); err != nil {
		return nil, fmt.Errorf("default file: %w", err)
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &c, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	if err := decode(b, &c); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &c, nil
}
