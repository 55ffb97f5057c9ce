// Renders templates as Ollama's chat path does: neighbours of one role joined, system texts gathered, then one execution.
// stdin: a JSON list of {"template", "messages": [{"role", "content"}]}; stdout: a JSON list of {"text"} or {"error"}.
package main

import (
	"encoding/json"
	"os"
	"strings"
	"text/template"
)

type Message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

type Case struct {
	Template string    `json:"template"`
	Messages []Message `json:"messages"`
}

type Result struct {
	Text  string `json:"text"`
	Error string `json:"error"`
}

func collate(given []Message) (string, []*Message) {
	var systems []string
	var joined []*Message
	for i := range given {
		m := given[i]
		if m.Role == "system" {
			systems = append(systems, m.Content)
		}
		if n := len(joined); n > 0 && joined[n-1].Role == m.Role {
			joined[n-1].Content += "\n\n" + m.Content
		} else {
			joined = append(joined, &m)
		}
	}
	return strings.Join(systems, "\n\n"), joined
}

func render(c Case) (Result, error) {
	t, err := template.New("").Option("missingkey=zero").Parse(c.Template)
	if err != nil {
		return Result{}, err
	}
	system, messages := collate(c.Messages)
	var out strings.Builder
	err = t.Execute(&out, map[string]any{"System": system, "Messages": messages, "Response": ""})
	return Result{Text: out.String()}, err
}

func main() {
	var cases []Case
	if err := json.NewDecoder(os.Stdin).Decode(&cases); err != nil {
		panic(err)
	}
	results := make([]Result, len(cases))
	for i, c := range cases {
		result, err := render(c)
		if err != nil {
			result.Error = err.Error()
		}
		results[i] = result
	}
	json.NewEncoder(os.Stdout).Encode(results)
}
