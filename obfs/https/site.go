package https

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"path"
	"strings"
	"time"

	"cuttle/obfs"
	"cuttle/relay/wire"
)

// site is what strangers get: a folder of the operator's, or built-in pages.
type site struct {
	http.Handler
	io.Closer
}

func newSite(o obfs.Options) (*site, error) {
	folder := o.Values["site"]
	if folder == "" {
		return &site{drawSite(o.Node), io.NopCloser(nil)}, nil
	}
	root, err := os.OpenRoot(folder)
	if err != nil {
		return nil, fmt.Errorf("site: %w", err)
	}
	if _, err := root.Stat("index.html"); err != nil {
		return nil, errors.Join(fmt.Errorf("site: no front page: %w", err), root.Close())
	}
	return &site{http.FileServerFS(published{root.FS()}), root}, nil
}

// published is a folder without its hidden files and without listings. Links that
// lead out of the folder are refused by os.Root.
type published struct{ fs.FS }

func (p published) Open(name string) (fs.File, error) {
	refused := &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	for part := range strings.SplitSeq(name, "/") {
		if strings.HasPrefix(part, ".") && part != "." {
			return nil, refused
		}
	}
	f, err := p.FS.Open(name)
	if errors.Is(err, fs.ErrPermission) {
		return nil, err
	}
	if err != nil {
		return nil, refused // a link that leads out of the folder is not there either
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if info.IsDir() {
		if _, err := fs.Stat(p.FS, path.Join(name, "index.html")); err != nil {
			return nil, errors.Join(refused, f.Close())
		}
	}
	return f, nil
}

//go:embed pages
var pageFiles embed.FS

// pages is a small static site in memory.
type pages struct {
	files   map[string][]byte // by path
	missing []byte
	changed time.Time
}

// ServeHTTP answers as an ordinary static server: conditional requests, ranges,
// HEAD.
func (p *pages) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := path.Clean("/" + r.URL.Path)
	if name == "/" {
		name = "/index.html"
	}
	body, ok := p.files[name]
	switch {
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "405 Method Not Allowed", http.StatusMethodNotAllowed)
	case ok:
		http.ServeContent(w, r, name, p.changed, bytes.NewReader(body))
	default:
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.WriteHeader(http.StatusNotFound)
		_, _ = w.Write(p.missing) // the visitor has gone: nothing to tell it
	}
}

// themed is everything that differs between two nodes' built-in sites.
type themed struct {
	Title, Tagline, Owner, Place string
	Color, Paper, Font           string
	Posts                        []post
	Year                         int
}

type post struct {
	Slug, Title string
	Date        time.Time
	Text        []string
}

// drawSite makes a small personal site out of the node's address: the same every
// time for one node, different from node to node. It is a beginning; a site that
// is really somebody's is better (docs/decisions/0001-https-mask.md).
func drawSite(node wire.NodeID) *pages {
	rnd := rand.New(rand.NewChaCha8(derive(node, "site")))
	t := drawTheme(rnd)
	tmpl := template.Must(template.ParseFS(pageFiles, "pages/*.tmpl"))
	p := &pages{files: map[string][]byte{}, changed: t.Posts[0].Date.Add(time.Duration(rnd.IntN(9e4)) * time.Second)}
	render := func(name string, data any) []byte {
		var b bytes.Buffer
		if err := tmpl.ExecuteTemplate(&b, name, data); err != nil {
			panic("https: built-in page: " + err.Error()) // the pages and the data are ours
		}
		return b.Bytes()
	}
	style := words(rnd, "style", "main", "site", "base")
	type page struct {
		themed
		Style string
		Post  post
	}
	plain := page{themed: t, Style: style}
	p.files["/index.html"] = render("index.tmpl", plain)
	p.files["/about.html"] = render("about.tmpl", plain)
	p.missing = render("missing.tmpl", plain)
	for _, one := range t.Posts {
		p.files["/"+one.Slug+".html"] = render("post.tmpl", page{t, style, one})
	}
	p.files["/"+style+".css"] = fmt.Appendf(nil, styleSheet, t.Font, t.Paper, t.Color, t.Color, 36+rnd.IntN(14))
	p.files["/robots.txt"] = []byte("User-agent: *\nAllow: /\n")
	p.files["/favicon.svg"] = fmt.Appendf(nil, icon, rnd.IntN(9), t.Color, t.Title[:1])
	return p
}

const (
	styleSheet = "body{font:17px/1.6 %s;background:%s;color:#222;margin:0 auto;padding:2rem 1rem}\n" +
		"a{color:%s}\nh1{color:%s;margin-bottom:0}\nbody{max-width:%dem}\n" +
		"time{color:#777;font-size:.85em}\nnav a{margin-right:1em}\nfooter{margin-top:4rem;color:#777;font-size:.85em}\n"
	icon = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="%d" fill="%s"/>` +
		`<text x="16" y="23" font-size="20" text-anchor="middle" fill="#fff">%s</text></svg>` + "\n"
)

func words(rnd *rand.Rand, from ...string) string { return from[rnd.IntN(len(from))] }

func drawTheme(rnd *rand.Rand) themed {
	owner := words(rnd, "Anna", "Tom", "Lena", "Paul", "Mira", "Jonas", "Ida", "Felix", "Nora", "Emil", "Clara", "Oskar")
	place := words(rnd, "by the river", "in the hills", "near the coast", "in a small town", "at the edge of the city")
	subject := subjects[rnd.IntN(len(subjects))]
	t := themed{
		Owner: owner, Place: place,
		Title:   words(rnd, owner+"'s "+subject.name, "Notes on "+subject.name, "The "+subject.name+" diary", subject.name+" and so on"),
		Tagline: words(rnd, "Written when there is time.", "Small things, slowly.", "A notebook, mostly for myself.", "What worked and what did not."),
		Color:   fmt.Sprintf("#%02x%02x%02x", 20+rnd.IntN(120), 20+rnd.IntN(110), 20+rnd.IntN(120)),
		Paper:   fmt.Sprintf("#%02x%02x%02x", 244+rnd.IntN(12), 244+rnd.IntN(12), 240+rnd.IntN(14)),
		Font:    words(rnd, "Georgia,serif", "system-ui,sans-serif", "Verdana,sans-serif", "Palatino,serif", "Helvetica,Arial,sans-serif"),
	}
	when := time.Date(2025, time.June, 1+rnd.IntN(300), 8+rnd.IntN(12), rnd.IntN(60), rnd.IntN(60), 0, time.UTC)
	t.Year = when.Year()
	lines := rnd.Perm(len(subject.lines))
	for i, n := range rnd.Perm(len(subject.titles))[:3+rnd.IntN(len(subject.titles)-2)] {
		title := subject.titles[n]
		text := []string{subject.lines[lines[i%len(lines)]], subject.lines[lines[(i+1+rnd.IntN(3))%len(lines)]]}
		t.Posts = append(t.Posts, post{strings.ReplaceAll(strings.ToLower(title), " ", "-"), title, when, text})
		when = when.Add(-time.Duration(5+rnd.IntN(50)) * 24 * time.Hour).Add(time.Duration(rnd.IntN(20000)) * time.Second)
	}
	return t
}

// subject is what a built-in site is about.
type subject struct {
	name          string
	titles, lines []string
}

var subjects = [...]subject{
	{"Bread", []string{"A wetter dough", "Rye at last", "The old oven", "Salt and patience", "Flat loaves"}, []string{
		"Seventy-five percent water, folded four times in the first two hours, then left alone until the morning.",
		"The starter had been in the cold for three weeks and took two feedings before it smelled of apples again.",
		"I turned the tray once, halfway. The left side of this oven is hotter and always will be.",
		"The crumb was tight. Next time the second rise gets another hour, whatever the clock says.",
		"A neighbor brought flour from the mill on the other bank; it drinks more than what the shop sells.",
	}},
	{"Bicycles", []string{"New spokes", "A quiet hub", "Forty kilometers of rain", "The blue frame", "On chains"}, []string{
		"The rim was true to half a millimeter before the last quarter turn, and never again afterwards.",
		"Grease does not make noise go away, but looking for the noise with a rag in hand usually does.",
		"We took the gravel road along the railway, since the bridge was closed again.",
		"The chain had stretched by almost a percent; the cassette will have to go with it.",
		"Lights that charge by cable are a promise that somebody has to keep every evening.",
	}},
	{"Gardens", []string{"First beans", "Slugs again", "The compost question", "A late frost", "Seeds to keep"}, []string{
		"The early row froze to the ground and came back from the root within ten days.",
		"Coffee grounds did nothing. A board on the path, turned over at dawn, did.",
		"We keep the seeds of the two plants that stood longest, and eat the others.",
		"Rain in the barrel reached the mark of last year on the very same day.",
		"The heap was too dry all spring; a bucket of water and a fork made the difference.",
	}},
	{"Maps", []string{"Paper and pencil", "The lost footpath", "Contour lines", "A map of the market", "North"}, []string{
		"The sheet of 1962 shows a ford where there is now a car park, and the stones are still there beneath it.",
		"I walked it with a pencil and counted steps; the result is off by less than I feared.",
		"Two signs point at each other across the field. Between them there has never been a path.",
		"Drawing the same corner five times taught me more about it than living there.",
		"The declination has moved by almost two degrees since the legend was printed.",
	}},
}
