package hostnet

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// newSuffix ends the name of the file that is about to take another's place.
const newSuffix = ".cuttle-new"

// maxFile bounds a resolver file, in bytes.
const maxFile = 1 << 20

// readFile reads what is at path; gone says that there is nothing.
func readFile(path string) (f *File, gone bool, err error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, true, nil
	}
	if err != nil {
		return nil, false, err
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		target, err := os.Readlink(path)
		return &File{Target: target}, false, err
	}
	if !info.Mode().IsRegular() {
		return nil, false, fmt.Errorf("%s is neither a file nor a symbolic link", path)
	}
	if info.Size() > maxFile {
		return nil, false, fmt.Errorf("%s is too large", path)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, false, err
	}
	uid, gid := owner(info)
	return &File{Content: content, Mode: info.Mode().Perm(), UID: uid, GID: gid}, false, nil
}

// writeFile puts f at path, in one move where the file system allows it. Where
// it does not (path is a mount point, as in containers), content is written in
// place.
func writeFile(path string, f *File) error {
	fresh := path + newSuffix
	err := makeFile(fresh, f)
	if err == nil {
		if err = os.Rename(fresh, path); err == nil {
			return syncDir(filepath.Dir(path))
		}
	}
	if rerr := os.Remove(fresh); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
		err = errors.Join(err, rerr)
	}
	if f.Target != "" {
		return err
	}
	if oerr := overwrite(path, f.Content); oerr != nil {
		return errors.Join(err, oerr)
	}
	return nil
}

// makeFile makes f at path, which must be free or a leftover of ours.
func makeFile(path string, f *File) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if f.Target != "" {
		return os.Symlink(f.Target, path)
	}
	w, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = w.Write(f.Content)
	err = errors.Join(err, w.Chmod(f.Mode))
	if os.Geteuid() == 0 {
		err = errors.Join(err, w.Chown(f.UID, f.GID))
	}
	return errors.Join(err, w.Sync(), w.Close())
}

// overwrite replaces the content of an existing file.
func overwrite(path string, content []byte) error {
	w, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = w.Write(content)
	return errors.Join(err, w.Sync(), w.Close())
}

// replaceFile writes content at path with the mode and owner of what is there.
func replaceFile(path, content string) error {
	old, _, err := readFile(path)
	if err != nil {
		return err
	}
	f := &File{Content: []byte(content), Mode: 0o644}
	if old != nil && old.Target == "" {
		f.Mode, f.UID, f.GID = old.Mode, old.UID, old.GID
	}
	return writeFile(path, f)
}

// restoreFile brings back what before says, if path still has ours.
func restoreFile(path, ours string, before Before) error {
	if err := os.Remove(path + newSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	now, gone, err := readFile(path)
	if err != nil {
		return err
	}
	if before.Gone {
		if gone || now.Target != "" || string(now.Content) != ours {
			return nil
		}
		return os.Remove(path)
	}
	// An in-place write that a crash has cut leaves a part of our content.
	if !gone && (now.Target != "" || !bytes.HasPrefix([]byte(ours), now.Content)) {
		return nil
	}
	if before.File == nil {
		return errors.New("journal lacks the file that was there")
	}
	return writeFile(path, before.File)
}
