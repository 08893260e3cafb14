// Prints one line from C++: a static constructor, virtual functions, a string and a vector; no exceptions, no iostreams.
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

namespace {

struct Word {
    virtual ~Word() = default;
    virtual std::string text() const = 0;
};

struct Greeting : Word {
    std::string text() const override { return "hello"; }
};

struct Origin : Word {
    explicit Origin(std::string name) : name(std::move(name)) {}
    std::string text() const override { return "from " + name; }
    std::string name;
};

struct Counter {
    Counter() : words(2) {}
    std::size_t words;
} counter;

}  // namespace

int main() {
    std::vector<std::unique_ptr<Word>> words;
    words.push_back(std::make_unique<Greeting>());
    words.push_back(std::make_unique<Origin>("C++"));
    std::string line;
    for (const auto &word : words) line += (line.empty() ? "" : " ") + word->text();
    std::printf("%s\n", line.c_str());
    return words.size() == counter.words ? 0 : 1;
}
